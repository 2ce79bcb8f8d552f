package oip

import (
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"fitserve/gateway/internal/failure"
)

// handler answers the protocol's requests.
type handler struct {
	protocol *protocol
	mux      *runtime.ServeMux
	maxBody  int64
}

// answer is what a call gives: the body, or an error.
type answer func(r *http.Request, path map[string]string) ([]byte, error)

// Register adds the protocol's paths to mux. No body is longer than maxBody, also when it is unpacked.
func Register(mux *runtime.ServeMux, connection grpc.ClientConnInterface, maxBody int64) error {
	protocol, err := newProtocol(connection)
	if err != nil {
		return err
	}
	h := &handler{protocol, mux, maxBody}
	for _, route := range h.routes() {
		if err := mux.HandlePath(route.method, route.path, route.serve); err != nil {
			return err
		}
	}
	return nil
}

type route struct {
	method, path string
	serve        runtime.HandlerFunc
}

func (h *handler) routes() []route {
	const model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
	routes := []route{
		{"GET", "/v2", h.json(h.serverMetadata)},
		{"GET", "/v2/health/live", h.json(h.serverLive)},
		{"GET", "/v2/health/ready", h.json(h.serverReady)},
		{"POST", "/v2/repository/index", h.json(h.index)},
		{"POST", "/v2/repository/models/{model}/load", h.json(h.repositoryCall("RepositoryModelLoad"))},
		{"POST", "/v2/repository/models/{model}/unload", h.json(h.repositoryCall("RepositoryModelUnload"))},
	}
	for _, path := range []string{model, version} {
		routes = append(routes,
			route{"GET", path, h.json(h.modelMetadata)},
			route{"GET", path + "/ready", h.json(h.modelReady)},
			route{"GET", path + "/config", h.json(h.modelConfig)},
			route{"GET", path + "/stats", h.json(h.modelStatistics)},
			route{"POST", path + "/infer", h.infer},
		)
	}
	// Last, so that it comes before the model of that name, as in Triton.
	return append(routes, route{"GET", "/v2/models/stats", h.json(h.modelStatistics)})
}

// json returns the handler of a call that answers with JSON.
func (h *handler) json(call answer) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		body, err := call(r, path)
		if err != nil {
			failure.Write(w, r, failure.Of(err))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // an error means that the caller is gone
	}
}

// invoke makes a call with the request's headers and deadline.
func (h *handler) invoke(r *http.Request, method string, request message) (message, error) {
	ctx, err := runtime.AnnotateContext(r.Context(), h.mux, r, fullName(method))
	if err != nil {
		return message{}, err
	}
	return h.protocol.call(ctx, method, request)
}

// -- the server -----------------------------------------------------------------------------------------------------

func (h *handler) serverMetadata(r *http.Request, _ map[string]string) ([]byte, error) {
	reply, err := h.invoke(r, "ServerMetadata", h.protocol.request("ServerMetadata"))
	return plain(reply, err)
}

func (h *handler) serverLive(r *http.Request, _ map[string]string) ([]byte, error) {
	reply, err := h.invoke(r, "ServerLive", h.protocol.request("ServerLive"))
	return whether(reply, "live", err)
}

func (h *handler) serverReady(r *http.Request, _ map[string]string) ([]byte, error) {
	reply, err := h.invoke(r, "ServerReady", h.protocol.request("ServerReady"))
	return whether(reply, "ready", err)
}

// -- models ---------------------------------------------------------------------------------------------------------

func (h *handler) modelMetadata(r *http.Request, path map[string]string) ([]byte, error) {
	return plain(h.ofModel(r, "ModelMetadata", path))
}

func (h *handler) modelReady(r *http.Request, path map[string]string) ([]byte, error) {
	reply, err := h.ofModel(r, "ModelReady", path)
	return whether(reply, "ready", err)
}

// modelConfig answers with the configuration alone; the gRPC form has it in a field.
func (h *handler) modelConfig(r *http.Request, path map[string]string) ([]byte, error) {
	reply, err := h.ofModel(r, "ModelConfig", path)
	if err != nil {
		return nil, err
	}
	return plain(message{reply.Get(reply.field("config")).Message()}, nil)
}

func (h *handler) modelStatistics(r *http.Request, path map[string]string) ([]byte, error) {
	return plain(h.ofModel(r, "ModelStatistics", path))
}

// ofModel makes a call about the model and version that the path names.
func (h *handler) ofModel(r *http.Request, method string, path map[string]string) (message, error) {
	request := h.protocol.request(method)
	request.setText("name", path["model"])
	request.setText("version", path["version"])
	return h.invoke(r, method, request)
}

// -- the repository -------------------------------------------------------------------------------------------------

// index answers with a list; the gRPC form has it in a field.
func (h *handler) index(r *http.Request, _ map[string]string) ([]byte, error) {
	var body struct {
		Ready bool `json:"ready"`
	}
	if err := readJSON(r.Body, &body); err != nil {
		return nil, err
	}
	request := h.protocol.request("RepositoryIndex")
	request.setTruth("ready", body.Ready)
	reply, err := h.invoke(r, "RepositoryIndex", request)
	if err != nil {
		return nil, err
	}
	return appendList(nil, reply.field("models"), reply.list("models")), nil
}

func (h *handler) repositoryCall(method string) answer {
	return func(r *http.Request, path map[string]string) ([]byte, error) {
		var body struct {
			Parameters map[string]any `json:"parameters"`
		}
		if err := readJSON(r.Body, &body); err != nil {
			return nil, err
		}
		request := h.protocol.request(method)
		request.setText("model_name", path["model"])
		if err := setParameters(request, "parameters", body.Parameters); err != nil {
			return nil, err
		}
		return plain(h.invoke(r, method, request))
	}
}

// whether answers with a truth value that is true. A false one is an error, since the protocol's clients look at nothing
// but the HTTP status, and the protocol wants one from 400 to 499.
func whether(reply message, field string, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	if !reply.truth(field) {
		return nil, status.Error(codes.FailedPrecondition, "not "+field)
	}
	return plain(reply, nil)
}
