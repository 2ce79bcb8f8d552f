// Package failure makes the gateway's own errors, which look like the service's: a google.rpc.Status with an ErrorInfo.
package failure

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	fitserve "fitserve/gateway/gen/fitserve/v1"
)

const domain = "fitserve"

// New returns an error of one of the contract's reasons.
func New(
	code codes.Code, reason fitserve.ErrorReason, message string, metadata map[string]string,
	details ...protoadapt.MessageV1,
) *status.Status {
	info := &errdetails.ErrorInfo{Reason: nameOf(reason), Domain: domain, Metadata: metadata}
	st, err := status.New(code, message).WithDetails(append([]protoadapt.MessageV1{info}, details...)...)
	if err != nil { // only for code OK
		panic(err)
	}
	return st
}

// InvalidField returns the error of a field that has a value which is not allowed.
func InvalidField(field, message string) *status.Status {
	reason := fitserve.ErrorReason_ERROR_REASON_INVALID_FIELD
	return New(codes.InvalidArgument, reason, message, map[string]string{"field": field},
		violation(field, message, reason))
}

// Undecodable returns the error of a body that is not what the method takes.
func Undecodable(message string) *status.Status {
	reason := fitserve.ErrorReason_ERROR_REASON_UNDECODABLE_MESSAGE
	return New(codes.InvalidArgument, reason, message, nil, violation("", message, reason))
}

// TooLarge returns the error of a message or body that is larger than a limit; setting is the limit's name.
func TooLarge(message, setting string, limit int64) *status.Status {
	text := strconv.FormatInt(limit, 10)
	quota := &errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{
		{Subject: setting, Description: setting + ": " + text},
	}}
	return New(codes.ResourceExhausted, fitserve.ErrorReason_ERROR_REASON_MESSAGE_TOO_LARGE, message,
		map[string]string{"limit_bytes": text}, quota)
}

// Unimplemented returns the error of something that the gateway does not serve, such as a path.
func Unimplemented(method, message string) *status.Status {
	return New(codes.Unimplemented, fitserve.ErrorReason_ERROR_REASON_UNIMPLEMENTED, message,
		map[string]string{"method": method})
}

// Of returns the status of any error. The service's own come with details and stay as they are; an error that arose on
// the way gets those that the service would have given.
func Of(err error) *status.Status {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		err = status.FromContextError(err).Err()
	}
	st := status.Convert(err)
	if len(st.Proto().GetDetails()) > 0 {
		return st
	}
	switch st.Code() {
	case codes.InvalidArgument:
		return refused(st.Message())
	case codes.Unavailable:
		// The message holds addresses; they are not the caller's business.
		return New(codes.Unavailable, fitserve.ErrorReason_ERROR_REASON_DRAINING,
			"the service does not answer; it is starting, stopping or away; try again", nil,
			&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
	case codes.DeadlineExceeded:
		return New(st.Code(), fitserve.ErrorReason_ERROR_REASON_DEADLINE_EXCEEDED,
			"the deadline passed; a grpc-timeout header, such as 120S, asks for a later one", nil)
	case codes.Canceled:
		return New(st.Code(), fitserve.ErrorReason_ERROR_REASON_CANCELLED, "the call was cancelled", nil)
	case codes.Unimplemented:
		return New(st.Code(), fitserve.ErrorReason_ERROR_REASON_UNIMPLEMENTED, st.Message(), nil)
	default:
		return st
	}
}

var (
	protoPrefix = regexp.MustCompile(`^proto:[\s\x{a0}]*`)
	// Texts with a field: `unknown field "modle"`, `invalid value for int32 field version: "x"`, `parsing field "force"`,
	// `type mismatch, parameter: version`, `error parsing "inline", oneof ... is already set`.
	fieldName = regexp.MustCompile(`(?:\bfield |\berror parsing |\bparameter: )"?([A-Za-z_][\w.]*)`)
)

// refused returns the error of a request that cannot be turned into its message. The text comes from protojson or from
// grpc-gateway, which give no details.
func refused(text string) *status.Status {
	text = strings.ReplaceAll(protoPrefix.ReplaceAllString(text, ""), "\u00a0", " ")
	message := text + "; /docs shows what each call takes"
	if found := fieldName.FindStringSubmatch(text); found != nil {
		return InvalidField(found[1], message)
	}
	return Undecodable(message)
}

func violation(field, message string, reason fitserve.ErrorReason) *errdetails.BadRequest {
	return &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: field, Description: message, Reason: nameOf(reason)},
	}}
}

func nameOf(reason fitserve.ErrorReason) string {
	return strings.TrimPrefix(reason.String(), "ERROR_REASON_")
}
