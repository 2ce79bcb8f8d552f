package oip

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"google.golang.org/protobuf/reflect/protoreflect"

	"fitserve/gateway/internal/failure"
)

// readJSON fills value from a body with one JSON object, or leaves it as it is if the body is empty.
func readJSON(body io.Reader, value any) error {
	decoder := json.NewDecoder(body)
	decoder.UseNumber()
	decoder.DisallowUnknownFields()
	switch err := decoder.Decode(value); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return badJSON(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return failure.Undecodable("there is more after the JSON object").Err()
	}
	return nil
}

func badJSON(err error) error {
	if wrong := new(json.UnmarshalTypeError); errors.As(err, &wrong) && wrong.Field != "" {
		return failure.InvalidField(wrong.Field, fmt.Sprintf("%s cannot be a %s", wrong.Field, wrong.Value)).Err()
	}
	var name string
	if n, _ := fmt.Sscanf(err.Error(), "json: unknown field %q", &name); n == 1 {
		return failure.InvalidField(name, fmt.Sprintf("the protocol has no field %q here", name)).Err()
	}
	return failure.Undecodable("the body is not the JSON object that the call takes: " + err.Error()).Err()
}

// setParameters fills a map of parameters; their type follows from the JSON value.
func setParameters(to message, place string, parameters map[string]any) error {
	field := to.field("parameters")
	for name, value := range parameters {
		entries := to.Mutable(field).Map()
		entry := entries.NewValue()
		if err := setParameter(message{entry.Message()}, value); err != nil {
			path := place + "." + name
			return failure.InvalidField(path, path+": "+err.Error()).Err()
		}
		entries.Set(protoreflect.ValueOfString(name).MapKey(), entry)
	}
	return nil
}

func setParameter(to message, value any) error {
	switch value := value.(type) {
	case bool:
		to.setTruth("bool_param", value)
	case string:
		to.setText("string_param", value)
	case json.Number:
		if number, err := value.Int64(); err == nil {
			to.Set(to.field("int64_param"), protoreflect.ValueOfInt64(number))
			return nil
		}
		number, err := value.Float64()
		if field := to.field("double_param"); err == nil && field != nil {
			to.Set(field, protoreflect.ValueOfFloat64(number))
			return nil
		}
		return fmt.Errorf("%s is no number that a parameter can hold", value)
	default:
		return errors.New("a parameter is a truth value, a number or a text")
	}
	return nil
}

// size returns the number of bytes that a parameter such as binary_data_size holds.
func size(value any) (int, error) {
	if number, ok := value.(json.Number); ok {
		if n, err := strconv.Atoi(number.String()); err == nil && n >= 0 && n <= math.MaxInt32 {
			return n, nil
		}
	}
	return 0, errors.New("it takes a number of bytes")
}
