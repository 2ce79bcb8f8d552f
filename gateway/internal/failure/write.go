package failure

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
)

// Write answers a request with an error: its google.rpc.Status as JSON, under the HTTP status of its code.
//
// Under /v2 the object has the message once more as `error`, where the Open Inference Protocol's clients look for it.
func Write(w http.ResponseWriter, r *http.Request, st *status.Status) {
	WriteAs(w, r, st, runtime.HTTPStatusFromCode(st.Code()))
}

// WriteAs does the same under an HTTP status of its own.
func WriteAs(w http.ResponseWriter, r *http.Request, st *status.Status, httpStatus int) {
	body, err := marshal(st)
	if err != nil {
		slog.Error("an error cannot be written as JSON", "error", err)
		body = []byte(`{"code":13,"message":"the gateway cannot write the error","details":[]}`)
	}
	if IsOIP(r) {
		text, _ := json.Marshal(st.Message()) // a string always can be
		body = fmt.Appendf(nil, `{"error":%s,%s`, text, body[1:])
	}
	header := w.Header()
	header.Del("Trailer")
	header.Del("Transfer-Encoding")
	header.Set("Content-Type", "application/json")
	if st.Code() == codes.Unauthenticated {
		header.Set("WWW-Authenticate", "Bearer")
	}
	if seconds := retryAfter(st); seconds > 0 {
		header.Set("Retry-After", fmt.Sprint(seconds))
	}
	w.WriteHeader(httpStatus)
	if _, err := w.Write(append(body, '\n')); err != nil {
		slog.Debug("the caller is gone", "error", err)
	}
}

// IsOIP says whether a request is one of the Open Inference Protocol.
func IsOIP(r *http.Request) bool {
	return r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/")
}

// marshal returns a status as JSON. Details of types that the gateway does not know are left out, and said to be.
func marshal(st *status.Status) ([]byte, error) {
	options := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}
	body, err := options.Marshal(st.Proto())
	if err == nil {
		return body, nil
	}
	slog.Warn("an error has a detail of an unknown type", "error", err)
	return options.Marshal(status.New(st.Code(), st.Message()).Proto())
}

// retryAfter returns the whole seconds after which the caller may try again, or 0 if the error does not say.
func retryAfter(st *status.Status) int {
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return max(1, int(math.Ceil(info.GetRetryDelay().AsDuration().Seconds())))
		}
	}
	return 0
}
