package oip

import (
	"fmt"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"fitserve/gateway/internal/failure"
)

// inferResponse returns the JSON of a response, and the binary data of the outputs that are wanted so, or nil if none is.
func inferResponse(reply message, wanted binaryWanted) (header []byte, tensors [][]byte, err error) {
	outputs, contents := reply.list("outputs"), reply.list("raw_output_contents")
	if contents.Len() != outputs.Len() {
		return nil, nil, status.Error(codes.Internal, "the service has answered with outputs that have no raw content")
	}
	header = append(header, '{')
	for _, name := range []string{"id", "model_name", "model_version"} {
		if text := reply.text(name); text != "" {
			header = append(appendText(append(appendText(header, name), ':'), text), ',')
		}
	}
	if parameters := reply.Get(reply.field("parameters")).Map(); parameters.Len() > 0 {
		header = append(appendParameters(append(header, `"parameters":`...), parameters, -1), ',')
	}
	header = append(header, `"outputs":[`...)
	for i := range outputs.Len() {
		if i > 0 {
			header = append(header, ',')
		}
		output, content := message{outputs.Get(i).Message()}, contents.Get(i).Bytes()
		binary := wanted.of(output.text("name"))
		if header, err = appendOutput(header, output, content, binary); err != nil {
			return nil, nil, err
		}
		if binary {
			tensors = append(tensors, content)
		}
	}
	return append(header, "]}"...), tensors, nil
}

func appendOutput(to []byte, output message, content []byte, binary bool) ([]byte, error) {
	to = appendText(append(to, `{"name":`...), output.text("name"))
	to = appendText(append(to, `,"datatype":`...), output.text("datatype"))
	to = appendList(append(to, `,"shape":`...), output.field("shape"), output.list("shape"))
	parameters := output.Get(output.field("parameters")).Map()
	if binary {
		to = appendParameters(append(to, `,"parameters":`...), parameters, len(content))
		return append(to, '}'), nil
	}
	if parameters.Len() > 0 {
		to = appendParameters(append(to, `,"parameters":`...), parameters, -1)
	}
	to, err := decode(append(to, `,"data":`...), content, output.text("datatype"))
	if err != nil {
		text := fmt.Sprintf("output %s: %v; ask for it with binary_data", output.text("name"), err)
		return nil, failure.InvalidField("outputs", text).Err()
	}
	return append(to, '}'), nil
}

// appendParameters writes parameters, with binary_data_size among them unless it is negative.
func appendParameters(to []byte, parameters protoreflect.Map, binarySize int) []byte {
	to = append(to, '{')
	if binarySize >= 0 {
		to = strconv.AppendInt(append(to, `"binary_data_size":`...), int64(binarySize), 10)
	}
	parameters.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		value.Message().Range(func(field protoreflect.FieldDescriptor, choice protoreflect.Value) bool {
			if to[len(to)-1] != '{' {
				to = append(to, ',')
			}
			to = appendValue(append(appendText(to, key.String()), ':'), field, choice)
			return true
		})
		return true
	})
	return append(to, '}')
}
