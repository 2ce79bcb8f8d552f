package oip

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// plain returns a message as the protocol's JSON, or the error that came instead of it. It is not protobuf's JSON: 64-bit
// integers are numbers, as in Triton's HTTP server. Fields that are not messages are written also when they are empty.
func plain(m message, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return appendMessage(nil, m.Message), nil
}

func appendMessage(to []byte, m protoreflect.Message) []byte {
	to = append(to, '{')
	fields := m.Descriptor().Fields()
	for i, first := 0, true; i < fields.Len(); i++ {
		field := fields.Get(i)
		if field.HasPresence() && !m.Has(field) {
			continue
		}
		if !first {
			to = append(to, ',')
		}
		first = false
		to = append(appendText(to, string(field.Name())), ':')
		switch value := m.Get(field); {
		case field.IsMap():
			to = appendMap(to, field, value.Map())
		case field.IsList():
			to = appendList(to, field, value.List())
		default:
			to = appendValue(to, field, value)
		}
	}
	return append(to, '}')
}

func appendList(to []byte, field protoreflect.FieldDescriptor, list protoreflect.List) []byte {
	to = append(to, '[')
	for i := range list.Len() {
		if i > 0 {
			to = append(to, ',')
		}
		to = appendValue(to, field, list.Get(i))
	}
	return append(to, ']')
}

func appendMap(to []byte, field protoreflect.FieldDescriptor, entries protoreflect.Map) []byte {
	to = append(to, '{')
	entries.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		if to[len(to)-1] != '{' {
			to = append(to, ',')
		}
		to = append(appendText(to, key.String()), ':')
		to = appendValue(to, field.MapValue(), value)
		return true
	})
	return append(to, '}')
}

func appendValue(to []byte, field protoreflect.FieldDescriptor, value protoreflect.Value) []byte {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return appendMessage(to, value.Message())
	case protoreflect.EnumKind:
		if name := field.Enum().Values().ByNumber(value.Enum()); name != nil {
			return appendText(to, string(name.Name()))
		}
		return strconv.AppendInt(to, int64(value.Enum()), 10)
	case protoreflect.StringKind:
		return appendText(to, value.String())
	case protoreflect.BytesKind:
		return appendText(to, base64.StdEncoding.EncodeToString(value.Bytes()))
	case protoreflect.FloatKind:
		return appendFloat(to, value.Float(), 32)
	case protoreflect.DoubleKind:
		return appendFloat(to, value.Float(), 64)
	default: // truth values and integers
		return append(to, value.String()...)
	}
}

func appendText(to []byte, text string) []byte {
	quoted, _ := json.Marshal(text) // a string always can be
	return append(to, quoted...)
}

// appendFloat writes what JSON has no numbers for as protobuf's JSON does, which numpy reads too.
func appendFloat(to []byte, value float64, bits int) []byte {
	switch {
	case math.IsNaN(value):
		return append(to, `"NaN"`...)
	case math.IsInf(value, 1):
		return append(to, `"Infinity"`...)
	case math.IsInf(value, -1):
		return append(to, `"-Infinity"`...)
	default:
		return strconv.AppendFloat(to, value, 'g', -1, bits)
	}
}
