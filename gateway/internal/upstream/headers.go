package upstream

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// allowed are the headers that reach the service. grpc-timeout becomes the call's deadline and needs no place here.
var allowed = []string{"authorization", "x-api-key", "x-request-id"}

// AllowedHeader maps the name of an HTTP header to that of the metadata it becomes, for the headers that may pass.
// Authorization is not among them: grpc-gateway passes it by itself.
func AllowedHeader(name string) (string, bool) {
	name = strings.ToLower(name)
	return name, name == "x-api-key" || name == "x-request-id"
}

// withAllowed drops what else grpc-gateway adds, such as x-forwarded-for, which callers could make up.
func withAllowed(ctx context.Context) context.Context {
	given, _ := metadata.FromOutgoingContext(ctx)
	kept := metadata.MD{}
	for _, name := range allowed {
		if values := given.Get(name); len(values) > 0 {
			kept.Set(name, values...)
		}
	}
	return metadata.NewOutgoingContext(ctx, kept)
}

func onlyAllowedHeaders(
	ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker,
	options ...grpc.CallOption,
) error {
	return invoke(withAllowed(ctx), method, request, reply, connection, options...)
}

func onlyAllowedStreamHeaders(
	ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string, open grpc.Streamer,
	options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return open(withAllowed(ctx), description, connection, method, options...)
}
