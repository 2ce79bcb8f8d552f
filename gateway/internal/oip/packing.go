package oip

import (
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"strings"

	"fitserve/gateway/internal/failure"
)

// unpack returns a reader of what a body holds. In HTTP, deflate means the zlib format.
func unpack(body io.Reader, encoding string) (io.Reader, error) {
	var unpacked io.Reader
	var err error
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		return body, nil
	case "gzip":
		unpacked, err = gzip.NewReader(body)
	case "deflate":
		unpacked, err = zlib.NewReader(body)
	default:
		message := "Content-Encoding: " + encoding + " is not known; gzip and deflate are"
		return nil, failure.InvalidField("Content-Encoding", message).Err()
	}
	if err != nil {
		return nil, failure.Undecodable("the body cannot be unpacked: " + err.Error()).Err()
	}
	return unpacked, nil
}

// writePacked answers with the parts of a body, packed if the caller asks for it.
func writePacked(w http.ResponseWriter, r *http.Request, parts [][]byte) {
	var out io.WriteCloser
	w.Header().Add("Vary", "Accept-Encoding")
	switch encoding := acceptedEncoding(r); encoding {
	case "gzip":
		w.Header().Set("Content-Encoding", encoding)
		out, _ = gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is a known one
	case "deflate":
		w.Header().Set("Content-Encoding", encoding)
		out, _ = zlib.NewWriterLevel(w, zlib.BestSpeed)
	default:
		out = unpacked{w}
	}
	for _, part := range parts {
		if _, err := out.Write(part); err != nil {
			return // the caller is gone
		}
	}
	_ = out.Close()
}

// acceptedEncoding returns the first encoding that the caller accepts and we have, or nothing.
func acceptedEncoding(r *http.Request) string {
	for _, header := range r.Header.Values("Accept-Encoding") {
		for one := range strings.SplitSeq(header, ",") {
			name, quality, _ := strings.Cut(strings.ToLower(strings.ReplaceAll(one, " ", "")), ";")
			if (name == "gzip" || name == "deflate") && quality != "q=0" {
				return name
			}
		}
	}
	return ""
}

type unpacked struct{ io.Writer }

func (unpacked) Close() error { return nil }
