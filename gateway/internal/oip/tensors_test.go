package oip

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestEveryDatatypeComesBackAsItWent(t *testing.T) {
	for datatype, text := range map[string]string{
		"BOOL":   `[true,false]`,
		"UINT8":  `[0,255]`,
		"UINT16": `[0,65535]`,
		"UINT32": `[0,4294967295]`,
		"UINT64": `[0,18446744073709551615]`,
		"INT8":   `[-128,127]`,
		"INT16":  `[-32768,32767]`,
		"INT32":  `[-2147483648,2147483647]`,
		"INT64":  `[-9223372036854775808,9223372036854775807]`,
		"FP32":   `[0.1,-3.4028235e+38,"NaN","Infinity","-Infinity"]`,
		"FP64":   `[0.1,-1.7976931348623157e+308,"NaN"]`,
		"BYTES":  `["","Köln","a\"b"]`,
	} {
		raw, _, err := encode(json.RawMessage(text), datatype)
		if err != nil {
			t.Errorf("%s: %v", datatype, err)
			continue
		}
		if back, err := decode(nil, raw, datatype); err != nil || string(back) != text {
			t.Errorf("%s: %s became %s, %v", datatype, text, back, err)
		}
	}
}

func TestRawContentsAreLittleEndian(t *testing.T) {
	for datatype, want := range map[string]string{"INT32": "\x01\x02\x00\x00", "BYTES": "\x03\x00\x00\x00513"} {
		text := map[string]string{"INT32": "[513]", "BYTES": `["513"]`}[datatype]
		if raw, _, err := encode(json.RawMessage(text), datatype); err != nil || string(raw) != want {
			t.Errorf("%s: %q, %v", datatype, raw, err)
		}
	}
}

func TestElementsThatDoNotFitAreRefused(t *testing.T) {
	for datatype, texts := range map[string][]string{
		"BOOL":  {`[1]`, `["true"]`, `[null]`},
		"UINT8": {`[-1]`, `[256]`, `[1.5]`, `["1"]`},
		"INT8":  {`[128]`, `[1e2]`},
		"FP32":  {`[1e39]`, `["one"]`, `[true]`, `{"a":1}`},
		"BYTES": {`[1]`},
		"FP16":  {`[1]`},
		"":      {`[1]`},
	} {
		for _, text := range texts {
			if raw, _, err := encode(json.RawMessage(text), datatype); err == nil {
				t.Errorf("%s: %s became %q", datatype, text, raw)
			}
		}
	}
}

func TestContentsThatAreCutOffOrNoTextAreRefused(t *testing.T) {
	for raw, datatype := range map[string]string{
		"abc":                  "INT32",
		"\x05\x00\x00\x00abc":  "BYTES",
		"\x05\x00":             "BYTES",
		"\x01\x00\x00\x00\xff": "BYTES",
	} {
		if text, err := decode(nil, []byte(raw), datatype); err == nil {
			t.Errorf("%s: %q became %s", datatype, raw, text)
		}
	}
}

func TestAShapeWhoseVolumeOverflowsHasNone(t *testing.T) {
	for _, shape := range [][]int64{{1 << 32, 1 << 32}, {-1}, {-1, -1}} {
		if v := volume(shape); v != -1 {
			t.Errorf("%v holds %d", shape, v)
		}
	}
	if volume(nil) != 1 || volume([]int64{3, 0, 1 << 62}) != 0 {
		t.Error("a scalar holds one element, an empty shape none")
	}
}

func TestParametersBecomeWhatTheyAre(t *testing.T) {
	protocol, err := newProtocol(nil)
	if err != nil {
		t.Fatal(err)
	}
	var given map[string]any
	text := `{"a":true,"b":7,"c":"seven","d":0.5}`
	if err := readJSON(strings.NewReader(text), &given); err != nil {
		t.Fatal(err)
	}
	request := protocol.request("ModelInfer")
	if err := setParameters(request, "parameters", given); err != nil {
		t.Fatal(err)
	}
	var back, want map[string]any
	parameters := appendParameters(nil, request.Get(request.field("parameters")).Map(), -1)
	if json.Unmarshal(parameters, &back) != nil || json.Unmarshal([]byte(text), &want) != nil {
		t.Fatalf("%s is no JSON", parameters)
	}
	for name, value := range want {
		if back[name] != value {
			t.Errorf("%s: %v became %v", name, value, back[name])
		}
	}
}
