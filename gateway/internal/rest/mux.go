// Package rest is the contract as REST: what the google.api.http annotations say, in JSON.
package rest

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	fitserve "fitserve/gateway/gen/fitserve/v1"
	"fitserve/gateway/internal/failure"
	"fitserve/gateway/internal/upstream"
)

// NewMux returns a handler of all calls of the contract that have a path, and of /healthz.
func NewMux(connection grpc.ClientConnInterface) (*runtime.ServeMux, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, newCodec()),
		runtime.WithIncomingHeaderMatcher(upstream.AllowedHeader),
		runtime.WithOutgoingHeaderMatcher(answeredHeader),
		runtime.WithOutgoingTrailerMatcher(noTrailer),
		runtime.SetQueryParameterParser(strictQuery{}),
		runtime.WithErrorHandler(writeError),
		runtime.WithStreamErrorHandler(streamError),
		runtime.WithRoutingErrorHandler(writeRoutingError),
		runtime.WithDisablePathLengthFallback(), // a POST is never a GET
		runtime.WithHealthzEndpoint(grpc_health_v1.NewHealthClient(connection)),
	)
	ctx := context.Background()
	return mux, errors.Join(
		fitserve.RegisterTrainingServiceHandlerClient(ctx, mux, fitserve.NewTrainingServiceClient(connection)),
		fitserve.RegisterModelServiceHandlerClient(ctx, mux, fitserve.NewModelServiceClient(connection)),
		fitserve.RegisterPredictionServiceHandlerClient(ctx, mux, fitserve.NewPredictionServiceClient(connection)),
		fitserve.RegisterServerServiceHandlerClient(ctx, mux, fitserve.NewServerServiceClient(connection)),
	)
}

// answeredHeader says which of the service's headers the caller sees.
func answeredHeader(name string) (string, bool) {
	return "X-Request-Id", strings.EqualFold(name, "x-request-id")
}

func noTrailer(string) (string, bool) { return "", false }

func writeError(
	_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error,
) {
	failure.Write(w, r, failure.Of(err))
}

// streamError makes the last line of a stream that fails after its first message.
func streamError(_ context.Context, err error) *status.Status {
	return failure.Of(err)
}

// writeRoutingError answers for paths and methods that nobody serves: UNIMPLEMENTED, as gRPC says of an unknown method.
func writeRoutingError(
	_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, httpStatus int,
) {
	method := r.Method + " " + shortened(r.URL.Path)
	message := method + " is not served; /docs shows what is"
	if httpStatus == http.StatusMethodNotAllowed {
		message = method + " is not served, but the path is with another method; /docs shows which"
	}
	failure.WriteAs(w, r, failure.Unimplemented(method, message), httpStatus)
}

func shortened(path string) string {
	const most = 200
	if len(path) <= most {
		return path
	}
	return strings.ToValidUTF8(path[:most], "") + "..."
}
