package oip

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"unicode/utf8"
)

// element is how the elements of a datatype stand in JSON and in raw contents, which are little-endian.
type element struct {
	width  int // bytes; 0 for BYTES
	encode func(to []byte, token json.Token) ([]byte, error)
	decode func(to, from []byte) []byte
}

// elements has no FP16 and BF16: they have no JSON form.
var elements = map[string]element{
	"BOOL":   {1, encodeBool, decodeBool},
	"UINT8":  unsigned(8),
	"UINT16": unsigned(16),
	"UINT32": unsigned(32),
	"UINT64": unsigned(64),
	"INT8":   signed(8),
	"INT16":  signed(16),
	"INT32":  signed(32),
	"INT64":  signed(64),
	"FP32":   float(32),
	"FP64":   float(64),
	"BYTES":  {0, encodeBytes, nil},
}

func elementOf(datatype string) (element, error) {
	kind, known := elements[datatype]
	if !known {
		return kind, fmt.Errorf("datatype %q has no JSON form; send it as binary data, if it is one of the protocol's", datatype)
	}
	return kind, nil
}

// encode returns the raw bytes of JSON data, nested or flat, and how many elements it has.
func encode(data json.RawMessage, datatype string) (raw []byte, count int, err error) {
	kind, err := elementOf(datatype)
	if err != nil {
		return nil, 0, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	raw = []byte{} // an input without elements has raw contents, too
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return raw, count, nil
		}
		if err != nil {
			return nil, 0, err
		}
		if delimiter, ok := token.(json.Delim); ok {
			if delimiter == '{' {
				return nil, 0, errors.New("it takes a list, not an object")
			}
			continue
		}
		if raw, err = kind.encode(raw, token); err != nil {
			return nil, 0, fmt.Errorf("element %d: %w", count, err)
		}
		count++
	}
}

// decode writes raw bytes as a flat JSON list.
func decode(to, raw []byte, datatype string) ([]byte, error) {
	kind, err := elementOf(datatype)
	if err != nil {
		return nil, err
	}
	if kind.width == 0 {
		return decodeTexts(to, raw)
	}
	if len(raw)%kind.width != 0 {
		return nil, fmt.Errorf("%d bytes are no whole number of %s elements", len(raw), datatype)
	}
	to = append(to, '[')
	for at := 0; at < len(raw); at += kind.width {
		if at > 0 {
			to = append(to, ',')
		}
		to = kind.decode(to, raw[at:at+kind.width])
	}
	return append(to, ']'), nil
}

// -- truth values ---------------------------------------------------------------------------------------------------

func encodeBool(to []byte, token json.Token) ([]byte, error) {
	value, ok := token.(bool)
	if !ok {
		return nil, fmt.Errorf("%v is not true or false", token)
	}
	if value {
		return append(to, 1), nil
	}
	return append(to, 0), nil
}

func decodeBool(to, from []byte) []byte {
	return strconv.AppendBool(to, from[0] != 0)
}

// -- numbers --------------------------------------------------------------------------------------------------------

func unsigned(bits int) element {
	encode := func(to []byte, token json.Token) ([]byte, error) {
		number, _ := token.(json.Number)
		value, err := strconv.ParseUint(number.String(), 10, bits)
		if err != nil {
			return nil, fmt.Errorf("%v is no integer from 0 of %d bits", token, bits)
		}
		return appendBits(to, value, bits), nil
	}
	return element{bits / 8, encode, func(to, from []byte) []byte {
		return strconv.AppendUint(to, readBits(from), 10)
	}}
}

func signed(bits int) element {
	encode := func(to []byte, token json.Token) ([]byte, error) {
		number, _ := token.(json.Number)
		value, err := strconv.ParseInt(number.String(), 10, bits)
		if err != nil {
			return nil, fmt.Errorf("%v is no integer of %d bits", token, bits)
		}
		return appendBits(to, uint64(value), bits), nil
	}
	return element{bits / 8, encode, func(to, from []byte) []byte {
		unused := 64 - bits
		return strconv.AppendInt(to, int64(readBits(from)<<unused)>>unused, 10)
	}}
}

func float(bits int) element {
	encode := func(to []byte, token json.Token) ([]byte, error) {
		value, err := floatOf(token, bits)
		if err != nil {
			return nil, fmt.Errorf("%v is no number of %d bits", token, bits)
		}
		if bits == 32 {
			return appendBits(to, uint64(math.Float32bits(float32(value))), bits), nil
		}
		return appendBits(to, math.Float64bits(value), bits), nil
	}
	return element{bits / 8, encode, func(to, from []byte) []byte {
		if bits == 32 {
			return appendFloat(to, float64(math.Float32frombits(uint32(readBits(from)))), bits)
		}
		return appendFloat(to, math.Float64frombits(readBits(from)), bits)
	}}
}

// floatOf reads what appendFloat writes.
func floatOf(token json.Token, bits int) (float64, error) {
	switch token := token.(type) {
	case json.Number:
		return strconv.ParseFloat(token.String(), bits)
	case string:
		if token == "NaN" || token == "Infinity" || token == "-Infinity" {
			return strconv.ParseFloat(token, bits)
		}
	}
	return 0, strconv.ErrSyntax
}

func appendBits(to []byte, value uint64, bits int) []byte {
	var all [8]byte
	binary.LittleEndian.PutUint64(all[:], value)
	return append(to, all[:bits/8]...)
}

func readBits(from []byte) uint64 {
	var all [8]byte
	copy(all[:], from)
	return binary.LittleEndian.Uint64(all[:])
}

// -- texts ----------------------------------------------------------------------------------------------------------

func encodeBytes(to []byte, token json.Token) ([]byte, error) {
	text, ok := token.(string)
	if !ok {
		return nil, fmt.Errorf("%v is no text", token)
	}
	return append(appendBits(to, uint64(len(text)), 32), text...), nil
}

// decodeTexts writes texts, each of which has its length before it.
func decodeTexts(to, raw []byte) ([]byte, error) {
	to = append(to, '[')
	for rest := raw; len(rest) > 0; {
		if len(rest) < 4 || uint64(len(rest)-4) < readBits(rest[:4]) {
			return nil, errors.New("its texts are cut off")
		}
		end := 4 + int(readBits(rest[:4]))
		if !utf8.Valid(rest[4:end]) {
			return nil, errors.New("it has bytes that are no text")
		}
		if to[len(to)-1] != '[' {
			to = append(to, ',')
		}
		to, rest = appendText(to, string(rest[4:end])), rest[end:]
	}
	return append(to, ']'), nil
}
