package refund

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Log appends JSON lines to a file. It may be used from several goroutines; each line is one write, so that several processes and a
// killed one leave whole lines.
type Log struct {
	mu   sync.Mutex
	file *os.File
}

// OpenLog opens path for appending and creates it if need be.
func OpenLog(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &Log{file: f}, nil
}

// Append writes v as one line.
func (l *Log) Append(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("log line: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("log line: %w", err)
	}
	return nil
}

// Close closes the file. What was appended is there: an append that failed said so itself.
func (l *Log) Close() { l.file.Close() }

// ReadLog reads every line of a log of T. Errors name the file and the line.
func ReadLog[T any](path string) ([]T, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	defer f.Close()
	rows, err := decodeLines[T](f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rows, nil
}

func decodeLines[T any](r io.Reader) ([]T, error) {
	var rows []T
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var row T
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		rows = append(rows, row)
	}
	if err := lines.Err(); err != nil {
		return nil, errors.Join(errors.New("log cut short"), err)
	}
	return rows, nil
}

func decision(body string) string {
	var a Answer
	if json.Unmarshal([]byte(body), &a) != nil {
		return ""
	}
	return a.Decision
}
