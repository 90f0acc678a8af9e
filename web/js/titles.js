// The shipped graphs in the editor's language: a group shows its title in it, a node its name and what that means. Saved
// graphs and prompts keep the titles that they came with, as `unclip run -s NAME.…` and the notes name nodes by them.
import { app } from "../../../scripts/app.js";

let titles = null; // { nodes: { title: words }, groups: { title: words } }

app.registerExtension({
  name: "unclip.titles",
  async setup() {
    if (app.extensionManager?.setting?.get("Comfy.Locale") !== "zh") return;
    const answer = await fetch(new URL("../titles.zh.json", import.meta.url));
    if (!answer.ok) return;
    titles = await answer.json();
    name();
    translate(app.rootGraph ?? app.graph); // a graph may stand there already
  },
  afterConfigureGraph() {
    if (titles) translate(app.rootGraph ?? app.graph);
  },
  nodeCreated(node) {
    if (!String(node.comfyClass).startsWith("UnCLIP")) return;
    // A text field that is empty says its name, and would say it in English.
    for (const { element, label } of node.widgets ?? []) if (label && element?.placeholder) element.placeholder = label;
  },
});

/** Prompts, and what is exported for the API, name nodes as their graph does. */
function name() {
  const saved = new Map(Object.entries(titles.nodes).map(([title, words]) => [shown(title, words), title]));
  const ask = app.graphToPrompt;
  app.graphToPrompt = async function () {
    const prompt = await ask.apply(this, arguments);
    for (const { _meta } of Object.values(prompt?.output ?? {})) {
      if (_meta) _meta.title = saved.get(_meta.title) ?? _meta.title;
    }
    return prompt;
  };
}

/** A node's title and what it means. */
function shown(title, words) {
  return `${title} ${words}`;
}

function translate(graph) {
  for (const node of graph._nodes) {
    const words = titles.nodes[node.title];
    if (words) {
      const before = node.onSerialize;
      node.onSerialize = keeping(node, shown(node.title, words), (data) => before?.call(node, data));
    }
    if (node.subgraph) translate(node.subgraph);
  }
  for (const group of graph._groups ?? []) {
    const words = titles.groups[group.title];
    if (!words) continue;
    const serialize = group.serialize.bind(group);
    const keep = keeping(group, words);
    group.serialize = () => {
      const data = serialize();
      keep(data);
      return data;
    };
  }
  app.canvas?.setDirty?.(true, true);
}

/** Show `words` as the title of a node or group. Returns what gives its data the title back that it came with, unless
 * the user has written another one since. */
function keeping(thing, words, before) {
  const saved = thing.title;
  thing.title = words;
  return (data) => {
    before?.(data);
    if (data.title === words) data.title = saved;
  };
}
