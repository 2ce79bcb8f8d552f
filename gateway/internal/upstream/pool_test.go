package upstream

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"fitserve/gateway/internal/config"
)

// callers counts the calls of each connection.
type callers struct {
	sync.Mutex
	calls map[string]int
}

func (c *callers) count(
	ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	from, _ := peer.FromContext(ctx)
	c.Lock()
	c.calls[from.Addr.String()]++
	c.Unlock()
	return handler(ctx, request)
}

// number returns how many connections there were calls of.
func (c *callers) number() int {
	c.Lock()
	defer c.Unlock()
	return len(c.calls)
}

// counted runs a service on an address and returns who calls it, where it listens, and what ends it.
func counted(t *testing.T, address string) (*callers, string, func()) {
	seen := &callers{calls: map[string]int{}}
	server := grpc.NewServer(grpc.UnaryInterceptor(seen.count))
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	listener, err := net.Listen("tcp", address)
	must(t, err)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return seen, listener.Addr().String(), server.Stop
}

func pool(t *testing.T, service string, connections int) *Pool {
	found, err := Connect(&config.Config{
		Service: service, Connections: connections, MaxMessageBytes: 1 << 20, RequestTimeout: 20 * time.Second,
	})
	must(t, err)
	t.Cleanup(func() { _ = found.Close() })
	return found
}

func ask(connection grpc.ClientConnInterface) error {
	_, err := grpc_health_v1.NewHealthClient(connection).Check(context.Background(), &grpc_health_v1.HealthCheckRequest{})
	return err
}

func TestConnectionsTakeTurns(t *testing.T) {
	seen, service, _ := counted(t, "127.0.0.1:0")
	connections := pool(t, service, 4)
	for range 12 {
		must(t, ask(connections))
	}
	if seen.number() != 4 {
		t.Errorf("the calls came over %d connections", seen.number())
	}
	for caller, calls := range seen.calls {
		if calls != 3 {
			t.Errorf("%s has made %d calls", caller, calls)
		}
	}
}

func TestAServiceThatComesBackIsFoundOverAllConnections(t *testing.T) {
	_, service, stop := counted(t, "127.0.0.1:0")
	connections := pool(t, service, 3)
	for range 3 {
		must(t, ask(connections))
	}
	stop()
	for range 6 {
		if ask(connections) == nil {
			t.Error("a service that has ended answers")
		}
	}
	seen, _, _ := counted(t, service)
	for end := time.Now().Add(20 * time.Second); seen.number() < 3; {
		if time.Now().After(end) {
			t.Fatalf("after 20 s the calls come over %d connections", seen.number())
		}
		_ = ask(connections)
	}
}
