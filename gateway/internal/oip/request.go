package oip

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"

	"google.golang.org/protobuf/reflect/protoreflect"

	"fitserve/gateway/internal/failure"
)

// inferenceRequest is the JSON of a request.
type inferenceRequest struct {
	ID         string            `json:"id"`
	Parameters map[string]any    `json:"parameters"`
	Inputs     []inputTensor     `json:"inputs"`
	Outputs    []requestedOutput `json:"outputs"`
}

type inputTensor struct {
	Name       string          `json:"name"`
	Shape      []int64         `json:"shape"`
	Datatype   string          `json:"datatype"`
	Parameters map[string]any  `json:"parameters"`
	Data       json.RawMessage `json:"data"`
}

type requestedOutput struct {
	Name       string         `json:"name"`
	Parameters map[string]any `json:"parameters"`
}

// binaryWanted says which outputs are wanted as binary data.
type binaryWanted struct {
	byDefault bool
	byName    map[string]bool
}

func (b binaryWanted) of(output string) bool {
	if wanted, said := b.byName[output]; said {
		return wanted
	}
	return b.byDefault
}

// inferRequest returns the gRPC form of a request whose JSON is header and whose binary data is rest.
func (h *handler) inferRequest(header, rest []byte) (message, binaryWanted, error) {
	var asked inferenceRequest
	wanted := binaryWanted{byName: map[string]bool{}}
	if err := readJSON(bytes.NewReader(header), &asked); err != nil {
		return message{}, wanted, err
	}
	request := h.protocol.request("ModelInfer")
	request.setText("id", asked.ID)
	var err error
	if wanted.byDefault, _, err = takeTruth(asked.Parameters, "binary_data_output", "parameters"); err != nil {
		return request, wanted, err
	}
	if err := setParameters(request, "parameters", asked.Parameters); err != nil {
		return request, wanted, err
	}
	for i, input := range asked.Inputs {
		if rest, err = addInput(request, input, fmt.Sprintf("inputs[%d]", i), rest); err != nil {
			return request, wanted, err
		}
	}
	if len(rest) > 0 {
		message := fmt.Sprintf("%d bytes of binary data belong to no input; see binary_data_size", len(rest))
		return request, wanted, failure.InvalidField("inputs", message).Err()
	}
	for i, output := range asked.Outputs {
		if err := addOutput(request, output, fmt.Sprintf("outputs[%d]", i), wanted.byName); err != nil {
			return request, wanted, err
		}
	}
	return request, wanted, nil
}

// addInput adds an input, whose data is either JSON or the next bytes of rest, and returns what is left of rest.
func addInput(request message, input inputTensor, place string, rest []byte) ([]byte, error) {
	data, rest, err := takeData(input, place, rest)
	if err != nil {
		return nil, err
	}
	delete(input.Parameters, "binary_data_size")
	tensor := request.appended("inputs")
	tensor.setText("name", input.Name)
	tensor.setText("datatype", input.Datatype)
	shape := tensor.Mutable(tensor.field("shape")).List()
	for _, length := range input.Shape {
		shape.Append(protoreflect.ValueOfInt64(length))
	}
	if data != nil {
		request.Mutable(request.field("raw_input_contents")).List().Append(protoreflect.ValueOfBytes(data))
	}
	return rest, setParameters(tensor, place+".parameters", input.Parameters)
}

// takeData returns the bytes of an input and what is left of rest. The bytes are nil if the input has none.
func takeData(input inputTensor, place string, rest []byte) (data, left []byte, err error) {
	given, isBinary := input.Parameters["binary_data_size"]
	switch {
	case isBinary && input.Data != nil:
		return nil, nil, failure.InvalidField(place, place+": it has both data and binary_data_size").Err()
	case isBinary:
		path := place + ".parameters.binary_data_size"
		length, err := size(given)
		if err != nil {
			return nil, nil, failure.InvalidField(path, path+": "+err.Error()).Err()
		}
		if length > len(rest) {
			message := fmt.Sprintf("%s: %d bytes are announced and %d are left in the body", path, length, len(rest))
			return nil, nil, failure.InvalidField(path, message).Err()
		}
		return rest[:length:length], rest[length:], nil
	case input.Data != nil:
		data, count, err := encode(input.Data, input.Datatype)
		if err == nil && volume(input.Shape) != int64(count) {
			err = fmt.Errorf("there are %d elements, which is not what the shape %v holds", count, input.Shape)
		}
		if err != nil {
			return nil, nil, failure.InvalidField(place+".data", place+".data: "+err.Error()).Err()
		}
		return data, rest, nil
	default:
		return nil, rest, nil
	}
}

// addOutput adds a requested output and notes whether it is wanted as binary data.
func addOutput(request message, output requestedOutput, place string, wanted map[string]bool) error {
	binary, said, err := takeTruth(output.Parameters, "binary_data", place+".parameters")
	if err != nil {
		return err
	}
	if said {
		wanted[output.Name] = binary
	}
	tensor := request.appended("outputs")
	tensor.setText("name", output.Name)
	return setParameters(tensor, place+".parameters", output.Parameters)
}

// takeTruth removes a parameter that is for the gateway and returns its value, and whether it was there.
func takeTruth(parameters map[string]any, name, place string) (value, said bool, err error) {
	given, said := parameters[name]
	delete(parameters, name)
	value, ok := given.(bool)
	if said && !ok {
		path := place + "." + name
		return false, true, failure.InvalidField(path, path+": it takes true or false").Err()
	}
	return value, said, nil
}

// volume returns how many elements a shape has, or -1 if it is none.
func volume(shape []int64) int64 {
	product := int64(1)
	for _, length := range shape {
		if length < 0 || (length > 0 && product > math.MaxInt64/length) {
			return -1
		}
		product *= length
	}
	return product
}
