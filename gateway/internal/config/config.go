// Package config reads the gateway's settings from the environment.
package config

import (
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"
)

// Config holds all settings.
type Config struct {
	Listen          string
	Service         string
	Connections     int
	MaxMessageBytes int
	MaxBodyBytes    int64
	RequestTimeout  time.Duration
	Grace           time.Duration
	TLS             TLS
}

// TLS says how the connection to the service is secured.
type TLS struct {
	Enabled    bool
	CAFile     string // empty: the system's authorities
	CertFile   string // empty: the gateway shows no certificate
	KeyFile    string
	ServerName string // empty: the host of the service's address
}

// setting is one environment variable: what it is called, means and becomes.
type setting struct {
	name     string
	fallback string
	help     string
	read     func(config *Config, value string) error
}

var settings = []setting{
	{"GATEWAY_LISTEN", "127.0.0.1:8080", "The address that HTTP listens on, host:port. Port 0 takes a free one.",
		func(c *Config, value string) (err error) { c.Listen, err = address(value); return }},
	{"GATEWAY_SERVICE", "127.0.0.1:50051", "The host:port of the FitServe service.",
		func(c *Config, value string) (err error) { c.Service, err = address(value); return }},
	{"GATEWAY_CONNECTIONS", "8", "How many connections to the service there are, which take turns. A service of several " +
		"processes (PREDICTION_PROCESSES) needs one or more for each.",
		func(c *Config, value string) error {
			n, err := integer(value, 1, 1<<10)
			c.Connections = int(n)
			return err
		}},
	{"GATEWAY_MAX_MESSAGE_BYTES", "67108864", "The largest message, in bytes: the service's MAX_MESSAGE_BYTES.",
		func(c *Config, value string) (err error) {
			n, err := integer(value, 1<<10, math.MaxInt32)
			c.MaxMessageBytes = int(n)
			return err
		}},
	{"GATEWAY_MAX_BODY_BYTES", "90177536", "The largest body of a request, in bytes, also after it is unpacked. The default " +
		"holds the largest message in base64.",
		func(c *Config, value string) (err error) {
			c.MaxBodyBytes, err = integer(value, 1<<10, math.MaxInt32)
			return err
		}},
	{"GATEWAY_REQUEST_SECONDS", "60", "How long a call may take that comes without a grpc-timeout header; a watch has no limit.",
		func(c *Config, value string) (err error) { c.RequestTimeout, err = seconds(value, true); return }},
	{"GATEWAY_GRACE_SECONDS", "30", "How long calls may go on after SIGTERM or SIGINT.",
		func(c *Config, value string) (err error) { c.Grace, err = seconds(value, false); return }},
	{"GATEWAY_TLS", "false", "Whether the connection to the service is TLS, true or false.",
		func(c *Config, value string) (err error) { c.TLS.Enabled, err = truth(value); return }},
	{"GATEWAY_TLS_CA", "", "The PEM file of the authorities that the service's certificate may come from. Empty: the system's.",
		func(c *Config, value string) error { c.TLS.CAFile = value; return nil }},
	{"GATEWAY_TLS_CERT", "", "The PEM file of the certificate that the gateway shows to the service, with its chain. Empty: none.",
		func(c *Config, value string) error { c.TLS.CertFile = value; return nil }},
	{"GATEWAY_TLS_KEY", "", "The PEM file of that certificate's private key.",
		func(c *Config, value string) error { c.TLS.KeyFile = value; return nil }},
	{"GATEWAY_TLS_SERVER_NAME", "", "The name that the service's certificate must have. Empty: the host in GATEWAY_SERVICE.",
		func(c *Config, value string) error { c.TLS.ServerName = value; return nil }},
}

// Read returns the settings that getenv gives; its error is one line that names the first wrong setting.
func Read(getenv func(string) string) (*Config, error) {
	config := &Config{}
	for _, s := range settings {
		value := getenv(s.name)
		if value == "" {
			value = s.fallback
		}
		if err := s.read(config, value); err != nil {
			return nil, fmt.Errorf("%s=%q: %w", s.name, value, err)
		}
	}
	if (config.TLS.CertFile == "") != (config.TLS.KeyFile == "") {
		return nil, fmt.Errorf("GATEWAY_TLS_CERT=%q, GATEWAY_TLS_KEY=%q: give both or none",
			config.TLS.CertFile, config.TLS.KeyFile)
	}
	if !config.TLS.Enabled && config.TLS != (TLS{}) {
		return nil, fmt.Errorf("GATEWAY_TLS=\"false\": the other GATEWAY_TLS settings need GATEWAY_TLS=true")
	}
	return config, nil
}

// Help explains every setting with its default.
func Help() string {
	var text strings.Builder
	for _, s := range settings {
		shown := s.fallback
		if shown == "" {
			shown = "empty"
		}
		fmt.Fprintf(&text, "  %s (default: %s)\n      %s\n", s.name, shown, s.help)
	}
	return text.String()
}

func address(value string) (string, error) {
	host, port, err := net.SplitHostPort(value)
	number, notNumber := strconv.ParseUint(port, 10, 16)
	if err != nil || notNumber != nil || host == "" || number > math.MaxUint16 {
		return "", fmt.Errorf("give host:port, such as 127.0.0.1:8080")
	}
	return value, nil
}

func integer(value string, least, most int64) (int64, error) {
	number, err := strconv.ParseInt(value, 10, 64)
	if err != nil || number < least || number > most {
		return 0, fmt.Errorf("give an integer from %d to %d", least, most)
	}
	return number, nil
}

func seconds(value string, positive bool) (time.Duration, error) {
	const most = 1e8 // about three years
	number, err := strconv.ParseFloat(value, 64)
	if err != nil || !(number >= 0 && number <= most) || (positive && number == 0) {
		return 0, fmt.Errorf("give a number of seconds, such as 30")
	}
	return time.Duration(number * float64(time.Second)), nil
}

func truth(value string) (bool, error) {
	enabled, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("give true or false")
	}
	return enabled, nil
}
