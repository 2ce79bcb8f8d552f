package config

import (
	"strings"
	"testing"
	"time"
)

func read(t *testing.T, given map[string]string) (*Config, error) {
	t.Helper()
	return Read(func(name string) string { return given[name] })
}

func TestDefaultsAreThoseThatHelpShows(t *testing.T) {
	config, err := read(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if config.Listen != "127.0.0.1:8080" || config.MaxMessageBytes != 64<<20 || config.Connections != 8 || config.RequestTimeout != time.Minute {
		t.Errorf("other defaults: %+v", config)
	}
	for _, shown := range []string{"127.0.0.1:8080", "67108864", "GATEWAY_TLS_SERVER_NAME (default: empty)"} {
		if !strings.Contains(Help(), shown) {
			t.Errorf("the help lacks %q", shown)
		}
	}
}

func TestTheLargestBodyHoldsTheLargestMessageInBase64(t *testing.T) {
	config, err := read(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if need := int64(config.MaxMessageBytes)*4/3 + 1<<18; config.MaxBodyBytes < need {
		t.Errorf("%d bytes are not the %d that are needed", config.MaxBodyBytes, need)
	}
}

func TestWrongSettingsAreNamed(t *testing.T) {
	for name, given := range map[string]map[string]string{
		"GATEWAY_LISTEN":          {"GATEWAY_LISTEN": ":8080"},
		"GATEWAY_SERVICE":         {"GATEWAY_SERVICE": "localhost:http"},
		"GATEWAY_CONNECTIONS":     {"GATEWAY_CONNECTIONS": "0"},
		"GATEWAY_REQUEST_SECONDS": {"GATEWAY_REQUEST_SECONDS": "inf"},
		"GATEWAY_TLS_KEY":         {"GATEWAY_TLS": "true", "GATEWAY_TLS_CERT": "cert.pem"},
		"GATEWAY_TLS=true":        {"GATEWAY_TLS_CA": "ca.pem"},
	} {
		if _, err := read(t, given); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
