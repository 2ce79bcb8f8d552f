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

	fitserve "fitserve/gateway/gen/fitserve/v1"
	"fitserve/gateway/internal/failure"
)

// readBody reads the whole body of a request, up to a size and within a time, before anything else is done for it.
func readBody(limit int64, within time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		control := http.NewResponseController(w)
		setReadDeadline(control, time.Now().Add(within))
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
		if err != nil {
			writeReadError(w, r, err, limit)
			return
		}
		setReadDeadline(control, time.Time{}) // a watch may be silent for long
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
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
