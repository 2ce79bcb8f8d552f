package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestTheHealthCheckSaysWhatTheGatewaySays(t *testing.T) {
	status := http.StatusOK
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(status)
	}))
	defer gateway.Close()
	listen := strings.TrimPrefix(gateway.URL, "http://")
	if err := askHealth(listen); err != nil {
		t.Error(err)
	}
	_, port, _ := strings.Cut(listen, ":")
	if err := askHealth("0.0.0.0:" + port); err != nil {
		t.Error("the address of all interfaces:", err)
	}
	status = http.StatusServiceUnavailable
	if askHealth(listen) == nil {
		t.Error("a gateway without its service counts as healthy")
	}
	gateway.Close()
	if askHealth(listen) == nil {
		t.Error("no gateway counts as healthy")
	}
}
