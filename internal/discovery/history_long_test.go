//go:build long

package discovery_test

import "testing"

func TestLongNoScriptFailsARequestThroughARealEnvoy(t *testing.T) { runScripts(t, 6, 60) }
