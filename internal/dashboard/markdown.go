package dashboard

import (
	"bytes"
	"html/template"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/renderer"
	"github.com/yuin/goldmark/util"
)

// converter writes a record's Markdown as HTML. A record quotes agents, clients and documents, so HTML in it is shown as it was written, and a
// link or a picture as its text: nobody is led or loaded elsewhere.
var converter = goldmark.New(
	// By attribute: a style would be refused by the policy of our own pages.
	goldmark.WithExtensions(extension.NewTable(extension.WithTableCellAlignMethod(extension.TableCellAlignAttribute))),
	goldmark.WithRendererOptions(renderer.WithNodeRenderers(util.Prioritized(inert{}, 1))),
)

func fromMarkdown(text string) (template.HTML, error) {
	var out bytes.Buffer
	if err := converter.Convert([]byte(text), &out); err != nil {
		return "", err
	}
	return template.HTML(out.String()), nil //nolint:gosec // what comes from outside is escaped, see inert
}

// inert renders what could act as what it is written as.
type inert struct{}

// RegisterFuncs implements renderer.NodeRenderer.
func (i inert) RegisterFuncs(reg renderer.NodeRendererFuncRegisterer) {
	reg.Register(ast.KindRawHTML, i.rawHTML)
	reg.Register(ast.KindHTMLBlock, i.htmlBlock)
	reg.Register(ast.KindLink, i.children)
	reg.Register(ast.KindImage, i.children)
	reg.Register(ast.KindAutoLink, i.autoLink)
}

func (inert) children(util.BufWriter, []byte, ast.Node, bool) (ast.WalkStatus, error) {
	return ast.WalkContinue, nil
}

func (inert) autoLink(w util.BufWriter, source []byte, node ast.Node, entering bool) (ast.WalkStatus, error) {
	if entering {
		template.HTMLEscape(w, node.(*ast.AutoLink).URL(source))
	}
	return ast.WalkContinue, nil
}

func (inert) rawHTML(w util.BufWriter, source []byte, node ast.Node, entering bool) (ast.WalkStatus, error) {
	if entering {
		for _, s := range node.(*ast.RawHTML).Segments.Sliced(0, node.(*ast.RawHTML).Segments.Len()) {
			template.HTMLEscape(w, s.Value(source))
		}
	}
	return ast.WalkSkipChildren, nil
}

func (inert) htmlBlock(w util.BufWriter, source []byte, node ast.Node, entering bool) (ast.WalkStatus, error) {
	if !entering {
		return ast.WalkContinue, nil
	}
	block := node.(*ast.HTMLBlock)
	for _, s := range block.Lines().Sliced(0, block.Lines().Len()) {
		template.HTMLEscape(w, s.Value(source))
	}
	if block.HasClosure() {
		template.HTMLEscape(w, block.ClosureLine.Value(source))
	}
	return ast.WalkContinue, nil
}
