// Package upstream is the connections to the service: how they are secured, what may pass, for how long.
package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"fitserve/gateway/internal/config"
)

// messageMargin is what the service reads above its limit, so as to refuse a message with a clear error.
const messageMargin = 1 << 20

// connect returns one connection, which is made when the first call needs it. Its error says which TLS file is wrong.
func connect(settings *config.Config) (*grpc.ClientConn, error) {
	security, err := transportSecurity(settings.TLS)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(settings.Service,
		grpc.WithTransportCredentials(security),
		grpc.WithNoProxy(), // the service is a neighbour; a proxy for the world outside would not find it
		grpc.WithUserAgent("fitserve-gateway"),
		grpc.WithChainUnaryInterceptor(onlyAllowedHeaders, limitMessage(settings.MaxMessageBytes),
			limitTime(settings.RequestTimeout)),
		grpc.WithChainStreamInterceptor(onlyAllowedStreamHeaders, firstMessageBeforeHeader),
		grpc.WithDefaultCallOptions(
			// The service bounds what it takes; the gateway takes what the service gives.
			grpc.MaxCallRecvMsgSize(math.MaxInt32),
			grpc.MaxCallSendMsgSize(settings.MaxMessageBytes+messageMargin),
		),
		// A service that comes back is found within seconds, not within gRPC's two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		// A watch can be silent for long. Pings find out that the service is gone.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 60 * time.Second, Timeout: 20 * time.Second}),
	)
}

func transportSecurity(settings config.TLS) (credentials.TransportCredentials, error) {
	if !settings.Enabled {
		return insecure.NewCredentials(), nil
	}
	options := &tls.Config{ServerName: settings.ServerName, MinVersion: tls.VersionTLS12}
	if settings.CAFile != "" {
		pem, err := os.ReadFile(settings.CAFile)
		if err != nil {
			return nil, fmt.Errorf("GATEWAY_TLS_CA=%q: %w", settings.CAFile, err)
		}
		options.RootCAs = x509.NewCertPool()
		if !options.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("GATEWAY_TLS_CA=%q: there is no PEM certificate in it", settings.CAFile)
		}
	}
	if settings.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(settings.CertFile, settings.KeyFile); err != nil {
			return nil, fmt.Errorf("GATEWAY_TLS_CERT=%q: %w", settings.CertFile, err)
		}
		// Read at each handshake, so that a renewed certificate needs no restart.
		options.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(settings.CertFile, settings.KeyFile)
			return &pair, err
		}
	}
	return credentials.NewTLS(options), nil
}
