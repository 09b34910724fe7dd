package telemetry

import (
	"context"
	"fmt"
	"net/url"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// CheckEndpoint says what is wrong with the address of a collector, or nil.
func CheckEndpoint(flag, endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" || u.Hostname() == "" {
		return fmt.Errorf("--%s %q: write the OTLP/gRPC address of a collector, such as http://127.0.0.1:4317", flag, endpoint)
	}
	return nil
}

// Scope names what makes the spans.
const Scope = "github.com/specproxy/specproxy"

// Tracing sends spans by OTLP over gRPC to the endpoint, http://host:port or https://host:port. A collector that is away costs nothing but the
// spans: at most 2,048 wait, and what comes beyond is dropped. OTEL_TRACES_SAMPLER says which are made; by default those whose caller's
// is, and all that have no caller. stop sends what waits.
func Tracing(ctx context.Context, endpoint, program, version, instance string, log *zap.Logger) (spans trace.TracerProvider, stop func(context.Context) error, err error) {
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(endpoint))
	if err != nil {
		return nil, nil, fmt.Errorf("traces to %s: %w", endpoint, err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces cannot be sent", zap.Error(err)) })) // the library's only way to say it
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(resource.NewSchemaless(
		attribute.String("service.name", program), attribute.String("service.version", version), attribute.String("service.instance.id", instance),
	)))
	return provider, provider.Shutdown, nil
}
