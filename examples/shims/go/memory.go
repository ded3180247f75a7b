package main

import (
	"crypto/sha256"
	"sync"

	"google.golang.org/grpc/codes"

	"example.com/ote-memory-shim/commandv1"
	"example.com/ote-memory-shim/shimv1"
)

// command is what is remembered of one dispatch id: what came under it, what was said about it, and its end. It lives
// apart from the calls that look at it: a call that is lost takes nothing with it.
type command struct {
	mu      sync.Mutex
	content [sha256.Size]byte
	arrived bool // false: cancelled before it came, the content is not known yet
	events  []*shimv1.ExecuteResponse
	over    bool
	changed chan struct{} // closed and made anew at each event
	stop    chan struct{} // closed by the first Cancel
	stopped bool
}

func newCommand() *command {
	return &command{changed: make(chan struct{}), stop: make(chan struct{})}
}

func (c *command) say(event *shimv1.ExecuteResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, event)
	c.over = event.GetResult() != nil
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *command) end(result *commandv1.Result) {
	c.say(&shimv1.ExecuteResponse{Event: &shimv1.ExecuteResponse_Result{Result: result}})
}

// since answers the events from that one on, whether they are all, and a channel that closes when there are more.
func (c *command) since(seen int) ([]*shimv1.ExecuteResponse, bool, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events[seen:], c.over, c.changed
}

func (c *command) cancel() shimv1.CancelState {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.arrived:
		return shimv1.CancelState_CANCEL_STATE_UNKNOWN
	case c.over:
		return shimv1.CancelState_CANCEL_STATE_FINISHED
	}
	if !c.stopped {
		c.stopped = true
		close(c.stop)
	}
	return shimv1.CancelState_CANCEL_STATE_CANCELLING
}

// memory holds the commands by dispatch id. Looking one up and putting it in is one step: two calls with the same new id
// must not both find that it is new.
type memory struct {
	mu       sync.Mutex
	commands map[string]*command
}

// knows says whether the id was executed before.
func (m *memory) knows(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok := m.commands[id]
	return ok && found.arrived
}

// enter answers the command of this id, and whether the caller is the one to run it.
func (m *memory) enter(id string, content [sha256.Size]byte) (*command, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok := m.commands[id]
	switch {
	case !ok:
		found = newCommand()
		found.content, found.arrived = content, true
		m.commands[id] = found
		return found, true, nil
	case !found.arrived:
		found.content, found.arrived = content, true
		found.end(failed(commandv1.Outcome_OUTCOME_CANCELLED, "CANCELLED", "cancelled before it came"))
	case found.content != content:
		return nil, false, refused(codes.AlreadyExists, "DISPATCH_EXISTS", "the id was used with other content")
	}
	return found, false, nil
}

func (m *memory) cancel(id string) shimv1.CancelState {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.commands[id]; !ok {
		m.commands[id] = newCommand()
	}
	return m.commands[id].cancel()
}

// forget drops ids that will never come again; one that runs is kept until it has ended.
func (m *memory) forget(ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		if found, ok := m.commands[id]; ok {
			if _, over, _ := found.since(0); over || !found.arrived {
				delete(m.commands, id)
			}
		}
	}
}
