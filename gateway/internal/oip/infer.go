package oip

import (
	"fmt"
	"io"
	"net/http"
	"strconv"

	"fitserve/gateway/internal/failure"
)

// headerLength is the HTTP header that says how much of a body is JSON; the rest is binary data.
const headerLength = "Inference-Header-Content-Length"

// infer answers an inference.
func (h *handler) infer(w http.ResponseWriter, r *http.Request, path map[string]string) {
	header, rest, err := h.split(r)
	if err != nil {
		failure.Write(w, r, failure.Of(err))
		return
	}
	request, wanted, err := h.inferRequest(header, rest)
	if err != nil {
		failure.Write(w, r, failure.Of(err))
		return
	}
	request.setText("model_name", path["model"])
	request.setText("model_version", path["version"])
	reply, err := h.invoke(r, "ModelInfer", request)
	if err != nil {
		failure.Write(w, r, failure.Of(err))
		return
	}
	header, tensors, err := inferResponse(reply, wanted)
	if err != nil {
		failure.Write(w, r, failure.Of(err))
		return
	}
	if tensors == nil {
		w.Header().Set("Content-Type", "application/json")
	} else {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set(headerLength, strconv.Itoa(len(header)))
	}
	writePacked(w, r, append([][]byte{header}, tensors...))
}

// split returns the JSON of a request's body and the binary data after it.
func (h *handler) split(r *http.Request) (header, rest []byte, err error) {
	unpacked, err := unpack(r.Body, r.Header.Get("Content-Encoding"))
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(io.LimitReader(unpacked, h.maxBody+1))
	if err != nil {
		return nil, nil, failure.Undecodable("the body cannot be unpacked: " + err.Error()).Err()
	}
	if int64(len(body)) > h.maxBody {
		return nil, nil, failure.TooLarge(
			fmt.Sprintf("the unpacked body has more than %d bytes (GATEWAY_MAX_BODY_BYTES)", h.maxBody),
			"GATEWAY_MAX_BODY_BYTES", h.maxBody).Err()
	}
	length := r.Header.Get(headerLength)
	if length == "" {
		return body, nil, nil
	}
	end, err := strconv.Atoi(length)
	if err != nil || end <= 0 || end > len(body) {
		return nil, nil, failure.InvalidField(headerLength, fmt.Sprintf(
			"%s: %s is not the length of a JSON object within the body's %d bytes", headerLength, length, len(body))).Err()
	}
	return body[:end], body[end:], nil
}
