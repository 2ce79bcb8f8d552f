// Command fitserve-gateway serves FitServe over HTTP: its contract as REST, the Open Inference Protocol, and a page to try
// both.
//
// Exit codes: 0 after a stop by signal, 1 if the gateway cannot start, fails or is not healthy, 2 for a wrong setting.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"fitserve/gateway/internal/config"
	"fitserve/gateway/internal/server"
	"fitserve/gateway/internal/upstream"
)

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(arguments []string) int {
	wantsHealth := len(arguments) == 1 && arguments[0] == "--health"
	if len(arguments) > 0 && !wantsHealth {
		return explain(arguments)
	}
	settings, err := config.Read(os.Getenv)
	if err != nil {
		return fail(2, fmt.Errorf("%w; see fitserve-gateway --help", err))
	}
	if wantsHealth {
		if err := askHealth(settings.Listen); err != nil {
			return fail(1, err)
		}
		return 0
	}
	connections, err := upstream.Connect(settings)
	if err != nil {
		return fail(2, err)
	}
	defer connections.Close()
	handler, err := server.NewHandler(settings, connections)
	if err != nil {
		return fail(1, err)
	}
	listener, err := net.Listen("tcp", settings.Listen)
	if err != nil {
		return fail(1, fmt.Errorf("GATEWAY_LISTEN=%q: %w", settings.Listen, err))
	}
	slog.Info("serving on http://"+listener.Addr().String(), "service", settings.Service)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := server.Serve(ctx, listener, handler, settings.Grace); err != nil {
		return fail(1, err)
	}
	slog.Info("stopped")
	return 0
}

// explain answers --help, and refuses all other arguments.
func explain(arguments []string) int {
	if len(arguments) == 1 && (arguments[0] == "--help" || arguments[0] == "-h") {
		fmt.Print("usage: fitserve-gateway [--health]\n\nFitServe over HTTP: REST, the Open Inference Protocol, and /docs to try both.\n" +
			"--health asks the gateway that runs on GATEWAY_LISTEN whether it and the service answer.\n\n" +
			"settings, as environment variables:\n\n" + config.Help())
		return 0
	}
	return fail(2, fmt.Errorf("%q: there are no arguments but --help and --health", arguments[0]))
}

func fail(code int, err error) int {
	fmt.Fprintln(os.Stderr, "fitserve-gateway: "+err.Error())
	return code
}
