package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"fitserve/gateway/internal/config"
)

// authority signs certificates for a test.
type authority struct {
	directory   string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{directory: t.TempDir()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.certificate, a.key = template, newKey(t)
	a.certificate = a.sign(t, "ca", template, a.key)
	return a
}

// issue writes NAME.pem and NAME.key for a host.
func (a *authority) issue(t *testing.T, name string) {
	key := newKey(t)
	a.sign(t, name, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}, key)
	data, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	writePEM(t, a.file(name+".key"), "EC PRIVATE KEY", data)
}

func (a *authority) sign(t *testing.T, name string, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	data, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	must(t, err)
	writePEM(t, a.file(name+".pem"), "CERTIFICATE", data)
	certificate, err := x509.ParseCertificate(data)
	must(t, err)
	return certificate
}

func (a *authority) file(name string) string { return filepath.Join(a.directory, name) }

func newKey(t *testing.T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func writePEM(t *testing.T, path, kind string, data []byte) {
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve runs a service whose callers need a certificate of the authority, and returns its address.
func (a *authority) serve(t *testing.T, name string) string {
	a.issue(t, name)
	pair, err := tls.LoadX509KeyPair(a.file(name+".pem"), a.file(name+".key"))
	must(t, err)
	callers := x509.NewCertPool()
	callers.AddCert(a.certificate)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: callers,
	})))
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func check(t *testing.T, service string, security config.TLS) codes.Code {
	connection, err := Connect(&config.Config{
		Service: service, Connections: 1, MaxMessageBytes: 1 << 20, RequestTimeout: 20 * time.Second, TLS: security,
	})
	must(t, err)
	defer connection.Close()
	_, err = grpc_health_v1.NewHealthClient(connection).Check(context.Background(), &grpc_health_v1.HealthCheckRequest{})
	return status.Code(err)
}

func TestTheServiceIsReachedOverMutualTLSOnly(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	service := ours.serve(t, "service.test")
	ours.issue(t, "gateway.test")
	theirs.issue(t, "gateway.test")
	good := config.TLS{
		Enabled: true, CAFile: ours.file("ca.pem"), CertFile: ours.file("gateway.test.pem"),
		KeyFile: ours.file("gateway.test.key"), ServerName: "service.test",
	}
	if code := check(t, service, good); code != codes.OK {
		t.Errorf("the right certificates: %v", code)
	}
	for name, change := range map[string]func(*config.TLS){
		"no TLS":                   func(s *config.TLS) { *s = config.TLS{} },
		"another authority":        func(s *config.TLS) { s.CAFile = theirs.file("ca.pem") },
		"the system's authorities": func(s *config.TLS) { s.CAFile = "" },
		"another name":             func(s *config.TLS) { s.ServerName = "other.test" },
		"no certificate of ours":   func(s *config.TLS) { s.CertFile, s.KeyFile = "", "" },
		"one of another authority's": func(s *config.TLS) {
			s.CertFile, s.KeyFile = theirs.file("gateway.test.pem"), theirs.file("gateway.test.key")
		},
	} {
		changed := good
		change(&changed)
		if code := check(t, service, changed); code != codes.Unavailable {
			t.Errorf("%s: %v", name, code)
		}
	}
}

func TestFilesThatAreNoCertificatesAreNamed(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	must(t, os.WriteFile(empty, nil, 0o600))
	for _, security := range []config.TLS{
		{Enabled: true, CAFile: empty},
		{Enabled: true, CAFile: empty + ".none"},
		{Enabled: true, CertFile: empty, KeyFile: empty},
	} {
		if _, err := Connect(&config.Config{Service: "127.0.0.1:1", Connections: 1, TLS: security}); err == nil {
			t.Errorf("%+v is taken", security)
		}
	}
}
