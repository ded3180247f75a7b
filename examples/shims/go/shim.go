package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"example.com/ote-memory-shim/commandv1"
	"example.com/ote-memory-shim/shimv1"
)

const (
	defaultReadyTimeout = 5 * time.Minute
	statusInterval      = time.Second
)

type shim struct {
	shimv1.UnimplementedShimServiceServer
	instance string
	cluster  cluster
	memory   memory
	payloads payloads
}

func newShim() *shim {
	return &shim{
		instance: rand.Text(),
		cluster:  cluster{objects: map[key]manifest{}},
		memory:   memory{commands: map[string]*command{}},
		payloads: payloads{held: map[[sha256.Size]byte]payload{}},
	}
}

// refused makes an error that ends a call. What happened to a command is never told this way, but in its result.
func refused(code codes.Code, reason, message string) error {
	detailed, err := status.New(code, message).WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "ote.dev"})
	if err != nil {
		return status.Error(code, message)
	}
	return detailed.Err()
}

func failed(outcome commandv1.Outcome, reason, message string) *commandv1.Result {
	return &commandv1.Result{Outcome: outcome, Reason: reason, Message: message}
}

func (s *shim) GetShimInfo(context.Context, *shimv1.GetShimInfoRequest) (*shimv1.GetShimInfoResponse, error) {
	return &shimv1.GetShimInfoResponse{
		Name:            "ote-memory-shim-go",
		Kind:            "memory",
		Version:         "1.0.0",
		ProtocolVersion: "v1",
		Capabilities:    []string{"apply", "delete", "get", "noop", "status", "put_payload"},
		InstanceId:      s.instance,
		Memory:          shimv1.Memory_MEMORY_INSTANCE,
		MaxCommandBytes: maxCommandBytes,
	}, nil
}

func (s *shim) Execute(request *shimv1.ExecuteRequest, stream grpc.ServerStreamingServer[shimv1.ExecuteResponse]) error {
	s.memory.forget(request.GetForget())
	content, wanted, err := s.body(request)
	if err != nil {
		return err
	}
	if get := wanted.GetGet(); get != nil {
		return s.read(get, stream)
	}
	if err := executable(wanted); err != nil {
		return err
	}
	id := request.GetDispatchId()
	if err := checkID(id); err != nil {
		return err
	}
	// An id that is known is answered even if its payload is gone.
	if wanted == nil && !s.memory.knows(id) {
		return refused(codes.FailedPrecondition, "PAYLOAD_MISSING", "put the payload first")
	}
	found, mine, err := s.memory.enter(id, content)
	if err != nil {
		return err
	}
	if mine {
		s.payloads.drop(content)
		go s.run(found, wanted, request)
	}
	return follow(found, stream)
}

// body answers the command and a hash that stands for it. The command is nil where its payload is not here.
func (s *shim) body(request *shimv1.ExecuteRequest) ([sha256.Size]byte, *commandv1.Command, error) {
	var content [sha256.Size]byte
	switch body := request.GetBody().(type) {
	case *shimv1.ExecuteRequest_Command:
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(body.Command)
		return sha256.Sum256(data), body.Command, err
	case *shimv1.ExecuteRequest_Payload:
		copy(content[:], body.Payload.GetSha256())
		data, ok := s.payloads.find(content)
		if !ok {
			return content, nil, nil
		}
		wanted := &commandv1.Command{}
		if err := proto.Unmarshal(data, wanted); err != nil {
			return content, nil, refused(codes.InvalidArgument, "BAD_COMMAND", "the payload is not a command")
		}
		return content, wanted, nil
	}
	return content, nil, refused(codes.InvalidArgument, "NO_COMMAND", "there is no command in the request")
}

func checkID(id string) error {
	printable := strings.IndexFunc(id, func(r rune) bool { return r < ' ' || r > '~' }) < 0
	if len(id) == 0 || len(id) > 128 || !printable {
		return refused(codes.InvalidArgument, "BAD_DISPATCH_ID", "dispatch_id: 1 to 128 characters of printable ASCII")
	}
	return nil
}

func executable(wanted *commandv1.Command) error {
	if wanted == nil {
		return nil // it came by payload, which is checked where it is there
	}
	switch wanted.GetKind().(type) {
	case *commandv1.Command_Apply, *commandv1.Command_Delete, *commandv1.Command_Noop:
		return nil
	}
	return refused(codes.Unimplemented, "UNSUPPORTED", "this shim does not execute that kind of command")
}

// follow sends what is said about a command until its result. It only looks: when the call is lost, the command goes on.
func follow(found *command, stream grpc.ServerStreamingServer[shimv1.ExecuteResponse]) error {
	for seen := 0; ; {
		events, over, changed := found.since(seen)
		for _, event := range events {
			if err := stream.Send(event); err != nil {
				return err
			}
		}
		seen += len(events)
		if over {
			return nil
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (s *shim) run(found *command, wanted *commandv1.Command, request *shimv1.ExecuteRequest) {
	switch kind := wanted.GetKind().(type) {
	case *commandv1.Command_Apply:
		var limit <-chan time.Time // nil: no limit
		if request.GetTimeout() != nil {
			limit = time.After(request.GetTimeout().AsDuration())
		}
		s.apply(found, kind.Apply, limit)
	case *commandv1.Command_Delete:
		found.end(s.delete(kind.Delete))
	default:
		found.end(&commandv1.Result{Outcome: commandv1.Outcome_OUTCOME_SUCCEEDED})
	}
}

func (s *shim) apply(found *command, apply *commandv1.Apply, limit <-chan time.Time) {
	manifests, err := parse(apply.GetManifests())
	if err != nil {
		found.end(failed(commandv1.Outcome_OUTCOME_FAILED, "INVALID_MANIFEST", err.Error()))
		return
	}
	objects := s.cluster.apply(manifests)
	ready := defaultReadyTimeout
	if apply.GetReadyTimeout() != nil {
		ready = apply.GetReadyTimeout().AsDuration()
	}
	waiting := notReady(objects)
	if waiting == 0 || ready <= 0 {
		found.end(&commandv1.Result{Outcome: commandv1.Outcome_OUTCOME_SUCCEEDED, Objects: objects})
		return
	}
	message := fmt.Sprintf("%d of %d objects ready", len(objects)-waiting, len(objects))
	found.say(&shimv1.ExecuteResponse{Event: &shimv1.ExecuteResponse_Progress{
		Progress: &commandv1.Progress{Message: message, Objects: objects, EffectDone: true},
	}})
	// The effect stays whatever ends the wait, so it never ends CANCELLED.
	result := failed(commandv1.Outcome_OUTCOME_FAILED, "", message)
	result.Objects = objects
	select {
	case <-time.After(ready):
		result.Reason = "NOT_READY"
	case <-limit:
		result.Reason = "DEADLINE_EXCEEDED"
	case <-found.stop:
		result.Reason = "CANCELLED"
	}
	found.end(result)
}

func notReady(objects []*commandv1.ObjectResult) int {
	waiting := 0
	for _, object := range objects {
		if !object.GetReady() {
			waiting++
		}
	}
	return waiting
}

func (s *shim) delete(wanted *commandv1.Delete) *commandv1.Result {
	refs := wanted.GetObjects()
	if len(wanted.GetManifests()) > 0 {
		manifests, err := parse(wanted.GetManifests())
		if err != nil {
			return failed(commandv1.Outcome_OUTCOME_FAILED, "INVALID_MANIFEST", err.Error())
		}
		for _, one := range manifests {
			refs = append(refs, one.ref())
		}
	}
	return &commandv1.Result{Outcome: commandv1.Outcome_OUTCOME_SUCCEEDED, Objects: s.cluster.delete(refs)}
}

func (s *shim) read(get *commandv1.Get, stream grpc.ServerStreamingServer[shimv1.ExecuteResponse]) error {
	if get.GetKind() == "" || (get.GetName() != "" && get.GetAllNamespaces()) {
		return refused(codes.InvalidArgument, "BAD_GET", "get needs a kind, and a name is looked up in one namespace")
	}
	output, count := s.cluster.get(get)
	result := &commandv1.Result{Outcome: commandv1.Outcome_OUTCOME_SUCCEEDED, Output: output}
	if get.GetName() != "" && count == 0 {
		message := fmt.Sprintf("there is no %s %s", get.GetKind(), get.GetName())
		result = failed(commandv1.Outcome_OUTCOME_FAILED, "NOT_FOUND", message)
	}
	return stream.Send(&shimv1.ExecuteResponse{Event: &shimv1.ExecuteResponse_Result{Result: result}})
}

func (s *shim) Cancel(_ context.Context, request *shimv1.CancelRequest) (*shimv1.CancelResponse, error) {
	if err := checkID(request.GetDispatchId()); err != nil {
		return nil, err
	}
	return &shimv1.CancelResponse{State: s.memory.cancel(request.GetDispatchId())}, nil
}

func (s *shim) PutPayload(stream grpc.ClientStreamingServer[shimv1.PutPayloadRequest, shimv1.PutPayloadResponse]) error {
	return s.payloads.put(stream)
}

func (s *shim) WatchStatus(_ *shimv1.WatchStatusRequest, stream grpc.ServerStreamingServer[shimv1.WatchStatusResponse]) error {
	ticker := time.NewTicker(statusInterval)
	defer ticker.Stop()
	for sent := -1; ; {
		if workloads, version := s.cluster.count(); version != sent {
			sent = version
			err := stream.Send(&shimv1.WatchStatusResponse{Status: &shimv1.ClusterStatus{
				Ready: true, Nodes: 1, NodesReady: 1, Workloads: workloads, AsOf: timestamppb.Now(),
			}})
			if err != nil {
				return err
			}
		}
		select {
		case <-ticker.C:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
