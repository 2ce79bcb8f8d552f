package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// firstMessageBeforeHeader lets a stream's Header wait for the first message.
//
// grpc-gateway asks for the header first. The header of a call that is refused at once is no error, so grpc-gateway would
// begin a stream and write the refusal as a line of it, unlike every other call's error.
func firstMessageBeforeHeader(
	ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string, open grpc.Streamer,
	options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := open(ctx, description, connection, method, options...)
	if err != nil || description.ClientStreams {
		return stream, err
	}
	first, err := responseOf(method)
	if err != nil {
		return nil, err
	}
	return &readAhead{ClientStream: stream, first: first}, nil
}

// readAhead is a stream of replies whose first one is read when the header is asked for.
type readAhead struct {
	grpc.ClientStream
	first proto.Message
	held  bool
	ended bool
}

// Header returns the header after the first message has come, or the error that came in its place.
func (s *readAhead) Header() (metadata.MD, error) {
	err := s.ClientStream.RecvMsg(s.first)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	s.held, s.ended = err == nil, err != nil
	return s.ClientStream.Header()
}

// RecvMsg reads the message that Header has read, or the next one.
func (s *readAhead) RecvMsg(message any) error {
	if s.held {
		s.held = false
		proto.Merge(message.(proto.Message), s.first)
		return nil
	}
	if s.ended {
		return io.EOF
	}
	return s.ClientStream.RecvMsg(message)
}

// responseOf returns an empty reply of the method "/package.Service/Method".
func responseOf(method string) (proto.Message, error) {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return nil, fmt.Errorf("method %s: %w", method, err)
	}
	message, err := protoregistry.GlobalTypes.FindMessageByName(found.(protoreflect.MethodDescriptor).Output().FullName())
	if err != nil {
		return nil, fmt.Errorf("method %s: %w", method, err)
	}
	return message.New().Interface(), nil
}
