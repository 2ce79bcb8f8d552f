package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	headerTime = 10 * time.Second // how long a caller may take to send a request's headers
	idleTime   = 2 * time.Minute  // how long a connection may wait for its next request
)

// Serve answers requests on listener until ctx is done, and lets those at work end within grace. What is still at work
// then, such as a watch, is cancelled.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, grace time.Duration) error {
	working, cancel := context.WithCancel(context.Background())
	defer cancel()
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		BaseContext:       func(net.Listener) context.Context { return working },
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	slog.Info("stopping", "grace", grace)
	return stop(server, cancel, grace)
}

func stop(server *http.Server, cancel context.CancelFunc, grace time.Duration) error {
	const lastWords = time.Second // for the answers of what is cancelled
	ending, done := context.WithTimeout(context.Background(), grace)
	defer done()
	err := server.Shutdown(ending)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	cancel()
	last, done := context.WithTimeout(context.Background(), lastWords)
	defer done()
	if err := server.Shutdown(last); err == nil {
		return nil
	}
	return server.Close()
}
