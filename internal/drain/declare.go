package drain

import (
	"slices"
	"strings"
)

// declaredFor is the worst class that is declared for requests of this kind, empty if none is. Where the agent is not guarded "none" is read as
// readonly: none counts only with the guard, but a class that was declared holds for the whole of the execution and is no silence.
func (c Contract) declaredFor(match func(*Declaration) bool) Effects {
	var worst Effects
	for i := range c.Declared {
		if d := &c.Declared[i]; d.Tool == "" && match(d) {
			worst = worst.Worse(c.declared(d.Class))
		}
	}
	return worst
}

func (c Contract) declared(class Effects) Effects {
	if class == EffectsNone && c.reporting() != Guarded {
		return EffectsReadonly
	}
	return class.known()
}

// declaredRoute is what is declared of a route, whatever the skill.
func (c Contract) declaredRoute(method, path string, grpc bool) Effects {
	return c.declaredFor(func(d *Declaration) bool { return d.Skill == "" && d.route().matches(method, path, grpc) })
}

// declaredSkill is what is declared of a skill, whatever the route.
func (c Contract) declaredSkill(skill string) Effects {
	return c.declaredFor(func(d *Declaration) bool { return d.Skill != "" && glob(d.Skill, skill) })
}

// DeclaredTool is what is declared of a tool: the worst of all declarations that match its name, and the first compensation that is named.
func (c Contract) DeclaredTool(tool string) (d Declaration, declared bool) {
	for i := range c.Declared {
		found := &c.Declared[i]
		if found.Tool == "" || !glob(found.Tool, tool) {
			continue
		}
		d.Class = d.Class.Worse(c.declared(found.Class))
		if d.Compensation == "" {
			d.Compensation = found.Compensation
		}
		declared = true
	}
	d.Tool = tool
	return d, declared
}

// complete fills in what is declared of the act's tool: the class where the agent names none or a better one, and the compensation. An act of
// which nothing is known is unknown.
func (c Contract) complete(a Act) Act {
	a.Class = a.Class.known()
	if d, ok := c.DeclaredTool(a.Tool); ok {
		a.Class = a.Class.Worse(d.Class)
		if a.Compensation == "" {
			a.Compensation = d.Compensation
		}
	}
	if a.Class == "" {
		a.Class = EffectsUnknown
	}
	return a
}

// NamesTools and NamesSkills say that a rule or a declaration depends on the tools an execution uses, or on the skill it asks for. Only then
// need a request be looked into.
func (c Contract) NamesTools() bool {
	return slices.ContainsFunc(c.Rules, func(r Rule) bool { return r.When.Tool != "" }) ||
		slices.ContainsFunc(c.Declared, func(d Declaration) bool { return d.Tool != "" })
}

// NamesSkills is as NamesTools.
func (c Contract) NamesSkills() bool {
	return slices.ContainsFunc(c.Rules, func(r Rule) bool { return r.When.Skill != "" }) ||
		c.declaresSkills()
}

func (c Contract) declaresSkills() bool {
	return slices.ContainsFunc(c.Declared, func(d Declaration) bool { return d.Skill != "" })
}

// HeaderNames lists the request headers that rules look at, lower case, sorted. No other is kept.
func (c Contract) HeaderNames() []string {
	var names []string
	for i := range c.Rules {
		for name := range c.Rules[i].When.Header {
			names = append(names, strings.ToLower(name))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
