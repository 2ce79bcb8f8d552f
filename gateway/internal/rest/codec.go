package rest

import (
	"bytes"
	"io"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// codec turns messages into JSON and back.
//
// Fields have the names of the contract, and numbers, truth values and lists that are empty are written too, so that
// `.training.free_cores` is 0 and not missing. Unknown fields are refused: they are typing errors.
type codec struct {
	runtime.JSONPb
}

func newCodec() *codec {
	return &codec{runtime.JSONPb{
		MarshalOptions: protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true},
	}}
}

// Marshal ends a message with a line feed, for people at a terminal. The lines of a stream come as maps.
func (c *codec) Marshal(value any) ([]byte, error) {
	data, err := c.JSONPb.Marshal(value)
	if _, ok := value.(proto.Message); ok {
		data = append(data, '\n')
	}
	return data, err
}

// StreamContentType is that of a watch: one JSON object a line.
func (*codec) StreamContentType(any) string {
	return "application/x-ndjson"
}

// NewDecoder returns a decoder of one whole body. The one of JSONPb would ignore what comes after the first object.
func (c *codec) NewDecoder(body io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(value any) error {
		data, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(data)) == 0 {
			return io.EOF // no body, which means a message without fields
		}
		if message, ok := value.(proto.Message); ok {
			return c.UnmarshalOptions.Unmarshal(data, message)
		}
		return c.Unmarshal(data, value)
	})
}
