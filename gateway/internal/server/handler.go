// Package server is the gateway as an HTTP server: what every request passes, and how it starts and stops.
package server

import (
	"fmt"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"fitserve/gateway/docs"
	fitserve "fitserve/gateway/gen/fitserve/v1"
	"fitserve/gateway/internal/config"
	"fitserve/gateway/internal/failure"
	"fitserve/gateway/internal/oip"
	"fitserve/gateway/internal/rest"
)

// NewHandler returns the handler of all that the gateway serves.
func NewHandler(settings *config.Config, connection grpc.ClientConnInterface) (http.Handler, error) {
	mux, err := rest.NewMux(connection)
	if err != nil {
		return nil, err
	}
	if err := oip.Register(mux, connection, settings.MaxBodyBytes); err != nil {
		return nil, err
	}
	calls := noQueryBesideBody(readBody(settings, mux))
	return noForeignPages(noSniffing(docs.Handler(calls))), nil
}

// noSniffing keeps browsers from guessing that an answer is a page.
func noSniffing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// noForeignPages refuses what a browser sends for a page of another site: anyone's page could otherwise train and unload
// models on a gateway that its visitor reaches.
func noForeignPages(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		failure.Write(w, r, failure.New(codes.PermissionDenied, fitserve.ErrorReason_ERROR_REASON_PERMISSION_DENIED,
			"the call comes from a page of another site", nil))
	}))
	return protection.Handler(next)
}

// noQueryBesideBody refuses a query where the fields are in the body: it would be ignored. Clients of the Open Inference
// Protocol may send one, which Triton ignores, too.
func noQueryBesideBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hasBody := r.Method == http.MethodPost || r.Method == http.MethodPut
		if hasBody && r.URL.RawQuery != "" && !failure.IsOIP(r) {
			name, _, _ := strings.Cut(r.URL.RawQuery, "=")
			message := fmt.Sprintf("field %q is in the query; %s takes its fields in the body", name, r.Method)
			failure.Write(w, r, failure.InvalidField(name, message))
			return
		}
		next.ServeHTTP(w, r)
	})
}
