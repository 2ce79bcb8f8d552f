package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fitserve "fitserve/gateway/gen/fitserve/v1"
	"fitserve/gateway/internal/config"
	"fitserve/gateway/internal/failure"
)

// valueBytes is what a number takes in the forms of inputs that are typed by hand, as protobuf.
const valueBytes = 11

// readBody reads the whole body of a request, up to a size and within a time, before anything else is done for it.
func readBody(settings *config.Config, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		control := http.NewResponseController(w)
		setReadDeadline(control, time.Now().Add(settings.RequestTimeout))
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, settings.MaxBodyBytes))
		if err != nil {
			writeReadError(w, r, err, settings.MaxBodyBytes)
			return
		}
		setReadDeadline(control, time.Time{}) // a watch may be silent for long
		if tooMany := tooManyValues(body, settings.MaxMessageBytes); tooMany != nil && !failure.IsOIP(r) {
			failure.Write(w, r, tooMany)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// tooManyValues refuses JSON with more values than fit into a message, before it is taken apart: each value takes a
// hundred bytes of memory then, and a body full of small numbers would take gigabytes.
func tooManyValues(body []byte, maxMessage int) *status.Status {
	most := maxMessage / valueBytes
	count := bytes.Count(body, []byte{','})
	if count <= most {
		return nil
	}
	return failure.TooLarge(fmt.Sprintf("the body has about %d values and at most %d fit into a message of %d bytes "+
		"(MAX_MESSAGE_BYTES); send a tensor, upload training data with UploadDataset, and send predictions in smaller "+
		"batches or with PredictStream", count, most, maxMessage), "MAX_MESSAGE_BYTES", int64(maxMessage))
}

func setReadDeadline(control *http.ResponseController, deadline time.Time) {
	if err := control.SetReadDeadline(deadline); err != nil {
		slog.Error("a connection takes no deadline", "error", err)
	}
}

func writeReadError(w http.ResponseWriter, r *http.Request, err error, limit int64) {
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		message := fmt.Sprintf("the body has more than %d bytes (GATEWAY_MAX_BODY_BYTES); upload training data with "+
			"UploadDataset, and send predictions in smaller batches or with PredictStream", limit)
		failure.Write(w, r, failure.TooLarge(message, "GATEWAY_MAX_BODY_BYTES", limit))
		return
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		failure.Write(w, r, failure.New(codes.DeadlineExceeded, fitserve.ErrorReason_ERROR_REASON_DEADLINE_EXCEEDED,
			"the body did not come in time (GATEWAY_REQUEST_SECONDS)", nil))
		return
	}
	failure.Write(w, r, failure.Undecodable("the body was cut off"))
}
