package dashboard

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// moment is a time as a page writes it. The zero value is one that is not known.
type moment struct{ ISO, Clock, Ago string }

// at writes a time in UTC, with the date where it is not within a day, and how long ago it was or will be.
func at(t, now time.Time) moment {
	if t.IsZero() {
		return moment{}
	}
	t = t.UTC()
	m := moment{ISO: t.Format(time.RFC3339Nano), Clock: t.Format("15:04:05")}
	ago := now.Sub(t)
	if ago.Abs() >= 24*time.Hour {
		m.Clock = t.Format("2006-01-02 15:04")
	}
	switch {
	case ago.Abs() < time.Second:
		m.Ago = "now"
	case ago < 0:
		m.Ago = "in " + span(-ago)
	default:
		m.Ago = span(ago) + " ago"
	}
	return m
}

func stamped(ts *timestamppb.Timestamp, now time.Time) moment {
	if !ts.IsValid() {
		return moment{}
	}
	return at(ts.AsTime(), now)
}

// units of a duration, largest first.
var units = []struct {
	name string
	size time.Duration
}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}}

// span writes a duration in its largest unit, and the next one while that still says something.
func span(d time.Duration) string {
	for i, u := range units {
		if d < u.size {
			continue
		}
		n, rest := d/u.size, d%u.size
		if next := i + 1; n < 10 && u.size >= time.Minute && next < len(units) && rest >= units[next].size {
			return fmt.Sprintf("%d %s %d %s", n, u.name, rest/units[next].size, units[next].name)
		}
		return fmt.Sprintf("%d %s", n, u.name)
	}
	return "less than 1 ms"
}

// spanOf is empty where the duration is not known.
func spanOf(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return span(d.AsDuration())
}

// points writes basis points as a percentage.
func points(basisPoints uint32) string {
	return strconv.FormatFloat(float64(basisPoints)/100, 'f', -1, 64) + " %"
}

// share writes a part of 1 as a percentage, with a decimal where that says something.
func share(part float64) string {
	if part > 0 && part < 0.001 {
		return fmt.Sprintf("%.2g %%", 100*part)
	}
	return strings.TrimSuffix(strconv.FormatFloat(100*part, 'f', 1, 64), ".0") + " %"
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// argument is a word of a command that is to be copied into a shell, whoever chose it.
func argument(word string) string {
	plain := func(r rune) bool {
		return strings.ContainsRune("-._:/@", r) || r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r))
	}
	if word != "" && word[0] != '-' && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(strings.Map(printable, word), "'", `'\''`) + "'"
}

// printable drops what would end the line, or show it other than it is.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return -1
}

// shortDigest is enough of a digest to know it by.
func shortDigest(digest string) string {
	_, hex, ok := strings.Cut(digest, ":")
	if !ok || len(hex) < 12 {
		return digest
	}
	return hex[:12]
}
