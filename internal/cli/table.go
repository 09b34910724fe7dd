package cli

import (
	"strings"
)

// table aligns columns. Numbers stand right, the last column is never padded.
type table struct {
	columns []column
	rows    [][]cell
}

type column struct {
	title string
	right bool
}

type cell struct {
	text  string
	style style
}

// newTable takes the titles; a leading ">" stands a column right.
func newTable(titles ...string) *table {
	t := &table{}
	for _, title := range titles {
		rest, right := strings.CutPrefix(title, ">")
		t.columns = append(t.columns, column{title: rest, right: right})
	}
	return t
}

// row adds a row of cells, one for each column, first cleaned of control characters and line breaks.
func (t *table) row(texts ...string) {
	cells := make([]cell, len(texts))
	for i, text := range texts {
		cells[i] = cell{text: oneLine(text)}
	}
	t.rows = append(t.rows, cells)
}

// mark styles one cell of the newest row.
func (t *table) mark(column int, s style) { t.rows[len(t.rows)-1][column].style = s }

func oneLine(s string) string { return strings.Join(strings.Fields(clean(s)), " ") }

// print writes the table, each line after indent. Without rows it writes nothing. On a terminal the last column is folded.
func (p *printer) print(t *table, indent string) {
	if len(t.rows) == 0 {
		return
	}
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = runes(c.title)
		for _, row := range t.rows {
			widths[i] = max(widths[i], runes(row[i].text))
		}
	}
	titles := make([]cell, len(t.columns))
	for i, c := range t.columns {
		titles[i] = cell{text: c.title, style: dim}
	}
	for _, row := range append([][]cell{titles}, t.rows...) {
		p.printRow(t.columns, widths, row, indent)
	}
}

func (p *printer) printRow(columns []column, widths []int, row []cell, indent string) {
	var line strings.Builder
	line.WriteString(indent)
	at := runes(indent)
	last := len(row) - 1
	for i, c := range row {
		gap := strings.Repeat(" ", widths[i]-runes(c.text))
		switch {
		case columns[i].right:
			line.WriteString(gap + p.paint(c.style, c.text))
		case i < last:
			line.WriteString(p.paint(c.style, c.text) + gap)
		default:
			line.WriteString(p.lastCell(c, at))
		}
		if i < last {
			line.WriteString("  ")
			at += widths[i] + 2
		}
	}
	p.line("%s", strings.TrimRight(line.String(), " "))
}

// lastCell folds the last column's text under itself where the width is known.
func (p *printer) lastCell(c cell, at int) string {
	if p.width == 0 || at+runes(c.text) <= p.width {
		return p.paint(c.style, c.text)
	}
	lines := fold(c.text, p.width-at)
	for i, l := range lines {
		lines[i] = p.paint(c.style, l)
	}
	return strings.Join(lines, "\n"+strings.Repeat(" ", at))
}
