package failure

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestTheFieldIsFoundInWhatTheLibrariesSay(t *testing.T) {
	for text, field := range map[string]string{
		"proto:\u00a0(line 1:2): unknown field \"modle\"":                                  "modle",
		"proto: (line 1:13): invalid value for int32 field version: \"x\"":                 "version",
		"proto: (line 1:2): duplicate field \"evict\"":                                     "evict",
		"proto: (line 1:9): error parsing \"inline\", oneof fitserve.v1.FitRequest is set": "inline",
		"parsing field \"page_size\": strconv.ParseInt: parsing \"x\": invalid syntax":     "page_size",
		"type mismatch, parameter: model, error: bad":                                      "model",
		"unknown field \"random_forest.n_estimator\" in the query":                         "random_forest.n_estimator",
		"proto: syntax error (line 1:1): unexpected token {":                               "",
		"proto: (line 1:1): unexpected token []":                                           "",
	} {
		st := Of(status.Error(codes.InvalidArgument, text))
		if got := st.Details()[1].(*errdetails.BadRequest).GetFieldViolations()[0].GetField(); got != field {
			t.Errorf("%q: field %q instead of %q", text, got, field)
		}
	}
}

func TestErrorsThatAroseOnTheWayGetAReason(t *testing.T) {
	for want, err := range map[string]error{
		"DEADLINE_EXCEEDED":   fmt.Errorf("reading: %w", context.DeadlineExceeded),
		"CANCELLED":           context.Canceled,
		"DRAINING":            status.Error(codes.Unavailable, "dial tcp 10.0.0.1:50051: connection refused"),
		"UNIMPLEMENTED":       status.Error(codes.Unimplemented, "unknown service"),
		"UNDECODABLE_MESSAGE": status.Error(codes.InvalidArgument, "no JSON"),
	} {
		st := Of(err)
		if info := st.Details()[0].(*errdetails.ErrorInfo); info.GetReason() != want || info.GetDomain() != "fitserve" {
			t.Errorf("%v: %v instead of %s", err, info, want)
		}
		if strings.Contains(st.Message(), "10.0.0.1") {
			t.Errorf("%q shows an address", st.Message())
		}
	}
	if st := Of(errors.New("odd")); st.Code() != codes.Unknown {
		t.Errorf("an error without a code has the code %v", st.Code())
	}
}

func TestTheServicesDetailsStay(t *testing.T) {
	given := TooLarge("much", "MAX_MESSAGE_BYTES", 1024)
	if st := Of(given.Err()); st.String() != given.String() {
		t.Errorf("%v became %v", given, st)
	}
}

func TestRetryAfterIsInWholeSeconds(t *testing.T) {
	for delay, want := range map[time.Duration]string{100 * time.Millisecond: "1", 1500 * time.Millisecond: "2", 30 * time.Second: "30"} {
		st, _ := status.New(codes.Unavailable, "later").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
		w := httptest.NewRecorder()
		Write(w, httptest.NewRequest("GET", "/v1/status", nil), st)
		if got := w.Header().Get("Retry-After"); got != want || w.Code != 503 {
			t.Errorf("%v: %d, Retry-After %q instead of %s", delay, w.Code, got, want)
		}
	}
}

func TestADetailOfAnUnknownTypeHidesNotTheError(t *testing.T) {
	proto := status.New(codes.NotFound, "gone").Proto()
	proto.Details = []*anypb.Any{{TypeUrl: "type.googleapis.com/of.Nobody", Value: []byte{1}}}
	w := httptest.NewRecorder()
	Write(w, httptest.NewRequest("GET", "/v1/status", nil), status.FromProto(proto))
	if w.Code != 404 || !strings.Contains(w.Body.String(), `"gone"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
