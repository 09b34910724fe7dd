package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/specproxy/specproxy/internal/notify"
)

func checkWebhooks(out io.Writer) *cobra.Command {
	var send bool
	cmd := &cobra.Command{
		Use:   "webhooks FILE",
		Short: "Check a file for --webhooks; with --send, send each receiver a sample",
		Long: `webhooks checks a file that xds can be started with (--webhooks FILE), its secrets and its templates included. With --send each receiver is sent a
sample of a rollback once, signed as all messages are.

    source: https://xds.example.com          # who says it; default /specproxy
    webhooks:
      - name: desk                            # how far it was told is kept by this name
        url: https://desk.example.com/hooks   # or {file: PATH} or {env: NAME}
        secret: {file: /run/secrets/desk}     # or {env: NAME}; one a line, all of them sign
        events: [rollback, "postmortem.*"]    # default: all but chain.head
        specs: [customer-service]             # default: all
      - name: chat
        url: {file: /run/secrets/slack-url}
        format: slack                         # cloudevents (default), slack, tracker, template
      - name: tracker
        url: https://tracker.example.com/items
        secret: {env: TRACKER_SECRET}
        format: template
        template: item.json.tmpl              # text/template over the CloudEvent: {{json .Data.Summary}}
        events: [postmortem.opened]
        headers: {Authorization: {file: /run/secrets/tracker}}

Events: ` + strings.Join(notify.Kinds(), ", ") + `.
docs/webhooks.md says what they hold, how they are signed, and what happens when a receiver fails.`,
		Example: "  xds webhooks webhooks.yaml\n  xds webhooks webhooks.yaml --send",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(fmt.Errorf("name one file: xds webhooks FILE"))
			}
			config, err := notify.Load(args[0])
			if err != nil {
				return usage(err)
			}
			var failed []error
			for _, r := range config.Receivers {
				if !send {
					fmt.Fprintf(out, "%s: %s, can be told\n", r.Name, r.Format)
					continue
				}
				now := time.Now().UTC()
				sample := notify.Sample(config.Source, now)
				sample.ID = fmt.Sprintf("sample-%d", now.UnixNano())
				if err := r.Try(cmd.Context(), sample); err != nil {
					failed = append(failed, fmt.Errorf("webhook %s: %w", r.Name, err))
					continue
				}
				fmt.Fprintf(out, "%s: took %s\n", r.Name, sample.ID)
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().BoolVar(&send, "send", false, "send each receiver a sample, once")
	return cmd
}
