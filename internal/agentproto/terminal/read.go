package terminal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// marks, one of which is in every document that says something. Most events of a stream of tokens have none, and are not read.
var marks = [][]byte{
	[]byte(`"state"`), []byte(`"isError"`), []byte(`"error"`), []byte(`"RUN_`), []byte(`"finish_reason":"`), []byte(`"finish_reason": "`),
	[]byte(`"object":"response"`), []byte(`"object": "response"`), []byte(`"response.`),
}

// message is everything that is read of the documents of all protocols.
type message struct {
	JSONRPC string          `json:"jsonrpc"`
	Error   json.RawMessage `json:"error"`
	Result  *result         `json:"result"`
	// AG-UI events, and OpenAI's of the Responses API.
	Type     string    `json:"type"`
	Message  text      `json:"message"`
	Response *response `json:"response"`
	// OpenAI objects.
	Object            string          `json:"object"`
	Status            json.RawMessage `json:"status"`
	Choices           []choice        `json:"choices"`
	IncompleteDetails *details        `json:"incomplete_details"`
	// A2A over HTTP+JSON: a task, or what holds one.
	ContextID    string  `json:"contextId"`
	Kind         string  `json:"kind"`
	Task         *holder `json:"task"`
	StatusUpdate *holder `json:"statusUpdate"`
}

// text is a string; what is none is left empty.
type text string

func (t *text) UnmarshalJSON(data []byte) error {
	var s string
	if json.Unmarshal(data, &s) == nil {
		*t = text(s)
	}
	return nil
}

type result struct {
	IsError      *bool           `json:"isError"`
	Kind         string          `json:"kind"`
	ContextID    string          `json:"contextId"`
	Status       json.RawMessage `json:"status"`
	Task         *holder         `json:"task"`
	StatusUpdate *holder         `json:"statusUpdate"`
}

type holder struct {
	Status json.RawMessage `json:"status"`
}

type response struct {
	Status            string   `json:"status"`
	Error             *failure `json:"error"`
	IncompleteDetails *details `json:"incomplete_details"`
}

type details struct {
	Reason string `json:"reason"`
}

type choice struct {
	FinishReason string `json:"finish_reason"`
}

type failure struct {
	Code    any  `json:"code"`
	Message text `json:"message"`
}

// Read says what one document says.
func Read(document []byte) Outcome {
	document = bytes.TrimSpace(document)
	if len(document) == 0 || document[0] != '{' || !marked(document) {
		return Outcome{}
	}
	var m message
	if json.Unmarshal(document, &m) != nil {
		return Outcome{}
	}
	switch {
	case m.JSONRPC == "2.0":
		return m.rpc()
	case strings.HasPrefix(m.Type, "RUN_"):
		return m.run()
	case strings.HasPrefix(m.Type, "response.") && m.Response != nil:
		return m.Response.outcome()
	case m.Object == "response":
		r := response{Status: word(m.Status), IncompleteDetails: m.IncompleteDetails}
		if isObject(m.Error) {
			r.Error = failureOf(m.Error)
		}
		return r.outcome()
	case m.Task != nil:
		return task(m.Task.Status, true)
	case m.StatusUpdate != nil:
		return task(m.StatusUpdate.Status, true)
	case isObject(m.Status):
		return task(m.Status, m.ContextID != "" || m.Kind == "task" || m.Kind == "status-update")
	case m.Type == "error":
		return failed("error: %s", m.Message)
	case isObject(m.Error):
		f := failureOf(m.Error)
		return failed("error: %s", f.Message)
	}
	return finish(m.Choices)
}

func marked(document []byte) bool {
	for _, m := range marks {
		if bytes.Contains(document, m) {
			return true
		}
	}
	return false
}

func isObject(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '{' }

func word(raw json.RawMessage) string {
	var t text
	_ = t.UnmarshalJSON(raw) // it never fails
	return string(t)
}

func failureOf(raw json.RawMessage) *failure {
	var f failure
	_ = json.Unmarshal(raw, &f) // what cannot be read stays empty
	return &f
}

// maxReason is how much of an agent's words is kept.
const maxReason = 200

func failed(format string, args ...any) Outcome {
	reason := strings.TrimSuffix(fmt.Sprintf(format, args...), ": ")
	if r := []rune(reason); len(r) > maxReason {
		reason = string(r[:maxReason]) + "…"
	}
	return Outcome{Known: true, Reason: reason}
}

func succeeded() Outcome { return Outcome{Known: true, Success: true} }

// rpc reads an answer of JSON-RPC 2.0: MCP's, or A2A's.
func (m *message) rpc() Outcome {
	if isObject(m.Error) {
		f := failureOf(m.Error)
		code, ok := f.Code.(float64)
		if !ok || callers(int(code)) {
			return Outcome{}
		}
		return failed("JSON-RPC error %d: %s", int(code), f.Message)
	}
	r := m.Result
	switch {
	case r == nil:
		return Outcome{}
	case r.IsError != nil && *r.IsError:
		return failed("the MCP tool reports an error")
	case r.IsError != nil:
		return succeeded()
	case r.Task != nil:
		return task(r.Task.Status, true)
	case r.StatusUpdate != nil:
		return task(r.StatusUpdate.Status, true)
	}
	return task(r.Status, r.ContextID != "" || r.Kind == "task" || r.Kind == "status-update")
}

// callers says that an error is the caller's, as a status of 4xx is: it says nothing of the agent. JSON-RPC's own of requests that cannot be
// understood, and A2A's and MCP's of things that are not there or not supported.
func callers(code int) bool {
	return code == -32700 || code <= -32600 && code >= -32602 || code <= -32001 && code >= -32009
}

// task reads the state of an A2A task; of version 0.3 only if something says that it is one.
func task(status json.RawMessage, sure bool) Outcome {
	if !isObject(status) {
		return Outcome{}
	}
	var s struct {
		State text `json:"state"`
	}
	if json.Unmarshal(status, &s) != nil {
		return Outcome{}
	}
	name, current := strings.CutPrefix(string(s.State), "TASK_STATE_")
	if !current && !sure {
		return Outcome{}
	}
	switch name = strings.ToLower(name); name {
	case "completed":
		return succeeded()
	case "failed", "rejected", "canceled":
		return failed("A2A task %s", name)
	}
	return Outcome{} // it goes on
}

// run reads an AG-UI event.
func (m *message) run() Outcome {
	switch m.Type {
	case "RUN_ERROR":
		return failed("AG-UI run error: %s", m.Message)
	case "RUN_FINISHED":
		return succeeded()
	}
	return Outcome{}
}

// outcome reads a response object of OpenAI's Responses API.
func (r *response) outcome() Outcome {
	switch r.Status {
	case "completed":
		return succeeded()
	case "failed":
		if r.Error != nil {
			return failed("response failed: %s", r.Error.Message)
		}
		return failed("response failed")
	case "cancelled":
		return failed("response cancelled")
	case "incomplete":
		if r.IncompleteDetails != nil {
			return failed("response incomplete: %s", r.IncompleteDetails.Reason)
		}
		return failed("response incomplete")
	}
	return Outcome{}
}

// finish reads the choices of a chat completion, or of a chunk of one: one that was cut off failed.
func finish(choices []choice) (o Outcome) {
	for _, c := range choices {
		switch c.FinishReason {
		case "":
		case "length", "content_filter":
			return failed("finish_reason %s", c.FinishReason)
		default:
			o = succeeded()
		}
	}
	return o
}
