package api

import (
	"context"
	"fmt"
	"net/http"

	"connectrpc.com/connect"

	"github.com/specproxy/specproxy/gen/specproxy/operator/v1/operatorv1connect"
	"github.com/specproxy/specproxy/internal/auth"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/roster"
)

// adminsOnly are the calls that change the rules for everybody, destroy evidence, or show a secret.
var adminsOnly = map[string]bool{
	operatorv1connect.OperatorServiceSetPolicyProcedure:       true,
	operatorv1connect.OperatorServiceImportArchiveProcedure:   true,
	operatorv1connect.PostMortemServiceEraseProcedure:         true,
	operatorv1connect.RolloutServiceGetWebhookSecretProcedure: true,
}

// admit lets callers do what their role allows. Reads are marked in the protocol (idempotency_level); what is not marked changes something.
func admit(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		caller, ok := auth.CallerOf(ctx)
		if !ok {
			return nil, connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("nobody is known to ask this"))
		}
		spec := req.Spec()
		switch {
		case adminsOnly[spec.Procedure]:
			if caller.Role != roster.Admin {
				return nil, forbidden(caller, "an admin may do this", "an admin")
			}
		case spec.IdempotencyLevel != connect.IdempotencyNoSideEffects:
			if !caller.Changes() {
				return nil, forbidden(caller, "operators, automation and admins may change something", "an operator")
			}
		}
		return next(ctx, req)
	}
}

func forbidden(caller auth.Caller, who, ask string) error {
	return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("the token of %s may not: only %s\n  next: ask %s to run it, or name the token of one with --token-file", caller.Actor(""), who, ask))
}

// actor is who gives a command.
func actor(ctx context.Context, h http.Header, automation bool) control.Actor {
	caller, _ := auth.CallerOf(ctx)
	return control.Actor{
		Name:       caller.Actor(h.Get(auth.ActorHeader)),
		Automation: automation || caller.Role == roster.Automation || h.Get(auth.AutomationHeader) != "",
		Admin:      caller.Role == roster.Admin,
	}
}
