package upstream

import (
	"context"
	"errors"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"fitserve/gateway/internal/config"
)

// Pool is several connections to the service, which take turns: a service of several processes on one port has each
// connection with one of them.
type Pool struct {
	connections []*grpc.ClientConn
	calls       atomic.Uint64
}

// Connect returns connections, each of which is made when the first call needs it. Its error says which TLS file is wrong.
func Connect(settings *config.Config) (*Pool, error) {
	pool := &Pool{}
	for range settings.Connections {
		connection, err := connect(settings)
		if err != nil {
			return nil, errors.Join(err, pool.Close())
		}
		pool.connections = append(pool.connections, connection)
	}
	return pool, nil
}

// Invoke makes a call with one request and one reply, on the connection whose turn it is.
func (p *Pool) Invoke(ctx context.Context, method string, request, reply any, options ...grpc.CallOption) error {
	return p.next().Invoke(ctx, method, request, reply, options...)
}

// NewStream begins a stream on the connection whose turn it is.
func (p *Pool) NewStream(
	ctx context.Context, description *grpc.StreamDesc, method string, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return p.next().NewStream(ctx, description, method, options...)
}

// Close closes all connections.
func (p *Pool) Close() error {
	var failed []error
	for _, connection := range p.connections {
		failed = append(failed, connection.Close())
	}
	return errors.Join(failed...)
}

// next returns the connection whose turn it is; one that is broken, and connects again, only if all are.
func (p *Pool) next() *grpc.ClientConn {
	turn := p.calls.Add(1)
	for later := range uint64(len(p.connections)) {
		connection := p.connections[(turn+later)%uint64(len(p.connections))]
		if connection.GetState() != connectivity.TransientFailure {
			return connection
		}
	}
	return p.connections[turn%uint64(len(p.connections))]
}
