// Package a2a finds out which skill an Agent2Agent request asks for.
//
// The protocol lists skills in the agent's card and has no field by which a message names one; clients that do so put its id into the metadata
// of the message or of the request. Invariant: what is not said there is not guessed. The package is pure.
package a2a

import "github.com/specproxy/specproxy/internal/agentproto/jsonpeek"

// Limit is how many bytes of a request's body Skill looks at.
const Limit = 64 << 10

// keys of the metadata that hold the skill's id.
var keys = []string{"skillId", "skill_id", "skill"}

// places where the skill's id may be: JSON-RPC first, then HTTP+JSON; the message before the request that sends it.
var places = func() []string {
	var all []string
	for _, at := range []string{"params.message.metadata", "params.metadata", "message.metadata", "metadata"} {
		for _, key := range keys {
			all = append(all, at+"."+key)
		}
	}
	return all
}()

// Skill is the id of the skill that the request asks for, empty if it names none. body is the body or its beginning.
func Skill(body []byte) string {
	for _, request := range jsonpeek.Objects(body[:min(len(body), Limit)], places...) {
		for _, place := range places {
			for _, id := range request[place] {
				if id != "" {
					return id
				}
			}
		}
	}
	return ""
}
