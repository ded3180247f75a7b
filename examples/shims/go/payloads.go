package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"example.com/ote-memory-shim/shimv1"
)

const (
	maxCommandBytes = 16 << 20
	keepPayload     = 10 * time.Minute
)

type payload struct {
	data  []byte
	until time.Time
}

// payloads holds commands that came ahead in pieces, until they are used or ten minutes old.
type payloads struct {
	mu   sync.Mutex
	held map[[sha256.Size]byte]payload
}

func (p *payloads) put(stream grpc.ClientStreamingServer[shimv1.PutPayloadRequest, shimv1.PutPayloadResponse]) error {
	first, err := stream.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	name := first.GetPayload()
	switch {
	case len(name.GetSha256()) != sha256.Size:
		return refused(codes.InvalidArgument, "BAD_PAYLOAD", "the first message names the payload by its SHA-256")
	case name.GetSize() > maxCommandBytes:
		return refused(codes.ResourceExhausted, "COMMAND_TOO_LARGE", "the payload is over max_command_bytes")
	}
	var data []byte
	for {
		next, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		data = append(data, next.GetData()...)
		if uint64(len(data)) > name.GetSize() {
			return refused(codes.InvalidArgument, "BAD_PAYLOAD", "more bytes came than the name says")
		}
	}
	hash := sha256.Sum256(data)
	if !bytes.Equal(hash[:], name.GetSha256()) {
		return refused(codes.InvalidArgument, "BAD_PAYLOAD", "the bytes are not what their hash says")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for other, held := range p.held {
		if time.Now().After(held.until) {
			delete(p.held, other)
		}
	}
	p.held[hash] = payload{data, time.Now().Add(keepPayload)}
	return stream.SendAndClose(&shimv1.PutPayloadResponse{})
}

func (p *payloads) find(hash [sha256.Size]byte) ([]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found, ok := p.held[hash]
	return found.data, ok
}

func (p *payloads) drop(hash [sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.held, hash)
}
