package upstream

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"fitserve/gateway/internal/failure"
)

// limitMessage refuses larger messages as the service would, without sending them.
func limitMessage(limit int) grpc.UnaryClientInterceptor {
	return func(
		ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker,
		options ...grpc.CallOption,
	) error {
		if size := proto.Size(request.(proto.Message)); size > limit {
			message := fmt.Sprintf("the message has %d bytes and %d are allowed (MAX_MESSAGE_BYTES); upload training data "+
				"with UploadDataset, and send predictions in smaller batches or with PredictStream", size, limit)
			return failure.TooLarge(message, "MAX_MESSAGE_BYTES", int64(limit)).Err()
		}
		return invoke(ctx, method, request, reply, connection, options...)
	}
}

// limitTime gives a deadline to calls without one. Streams have none: a watch may last as long as the training.
func limitTime(limit time.Duration) grpc.UnaryClientInterceptor {
	return func(
		ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker,
		options ...grpc.CallOption,
	) error {
		if _, has := ctx.Deadline(); !has {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
		}
		return invoke(ctx, method, request, reply, connection, options...)
	}
}
