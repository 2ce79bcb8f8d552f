// Package oip is the Open Inference Protocol's REST form, in Triton's dialect: its own JSON and binary data, translated to
// inference.GRPCInferenceService and back.
package oip

import (
	"context"
	_ "embed"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// descriptors are those of package inference, as tritonclient has them: `make generate`.
//
//go:embed inference.binpb
var descriptors []byte

const serviceName = "inference.GRPCInferenceService"

// protocol calls the methods of the protocol's gRPC form. The messages have no Go types: all but their tensors is copied
// from one form to the other without knowing it.
type protocol struct {
	connection grpc.ClientConnInterface
	service    protoreflect.ServiceDescriptor
}

func newProtocol(connection grpc.ClientConnInterface) (*protocol, error) {
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(descriptors, &set); err != nil {
		return nil, fmt.Errorf("inference.binpb: %w", err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return nil, fmt.Errorf("inference.binpb: %w", err)
	}
	service, err := files.FindDescriptorByName(serviceName)
	if err != nil {
		return nil, fmt.Errorf("inference.binpb: %w", err)
	}
	return &protocol{connection, service.(protoreflect.ServiceDescriptor)}, nil
}

// request returns an empty request of a method.
func (p *protocol) request(method string) message {
	return message{dynamicpb.NewMessage(p.method(method).Input())}
}

// call returns the answer to a request.
func (p *protocol) call(ctx context.Context, method string, request message) (message, error) {
	answer := dynamicpb.NewMessage(p.method(method).Output())
	err := p.connection.Invoke(ctx, fullName(method), request.Interface(), answer)
	return message{answer}, err
}

func (p *protocol) method(name string) protoreflect.MethodDescriptor {
	return p.service.Methods().ByName(protoreflect.Name(name))
}

func fullName(method string) string {
	return "/" + serviceName + "/" + method
}

// message is a message whose fields go by name.
type message struct{ protoreflect.Message }

func (m message) field(name string) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(protoreflect.Name(name))
}

func (m message) setText(name, value string)   { m.Set(m.field(name), protoreflect.ValueOfString(value)) }
func (m message) setTruth(name string, v bool) { m.Set(m.field(name), protoreflect.ValueOfBool(v)) }
func (m message) text(name string) string      { return m.Get(m.field(name)).String() }
func (m message) truth(name string) bool       { return m.Get(m.field(name)).Bool() }
func (m message) list(name string) protoreflect.List {
	return m.Get(m.field(name)).List()
}

// appended adds a message to a repeated field and returns it.
func (m message) appended(name string) message {
	return message{m.Mutable(m.field(name)).List().AppendMutable().Message()}
}
