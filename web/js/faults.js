// What is wrong with a node, on the node itself. Recent editors mark a node in red and keep the reason behind two clicks;
// they take a warning away as the run ends, and older ones break it in the middle of words.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { hide, make, show } from "./widget.js";

const FAULT = { name: "unclip_fault", color: "var(--p-red-400, #f66)" };
const WARNING = { name: "unclip_warning", color: "var(--p-amber-400, #fb4)" };
const EDITORS_TEXT = "$$node-text-preview";
const LINE = 15;
const LINES = 8; // more are scrolled to
const LETTER = 6; // pixels of one, on average
const LOOK = 250; // milliseconds
const SHOWN = 20_000; // milliseconds that a message stays
const marked = new Map(); // node -> { size: as it was left here, grown: { name of a text: [width, height] } }
let seen = null; // the editor's errors that were told last

app.registerExtension({
  name: "unclip.faults",
  setup() {
    api.addEventListener("execution_error", ({ detail }) => tell(FAULT, detail?.node_id, detail?.exception_message));
    api.addEventListener("progress_text", ({ detail }) => warn(detail?.nodeId, detail?.text));
    // No event says that a prompt was refused, and a wrapper of app.queuePrompt would stand in the way of other packs'.
    setInterval(look, LOOK);
  },
});

/** Tell what the server has against the graph, once. */
function look() {
  const errors = app.lastNodeErrors ?? null;
  if (errors === seen) return;
  seen = errors;
  if (!errors || !Object.keys(errors).length) return; // a reason stands until the next prompt is queued
  clear();
  for (const [id, { errors: found }] of Object.entries(errors)) tell(FAULT, id, found?.map(reason).join("\n"));
}

/** An error as one line: what is wrong, and with which input. */
function reason({ type, message, details }) {
  if (details && type === "custom_validation_failed") return details; // the message says no more than that
  if (!details || message?.includes(details)) return message;
  return !message || details.includes(message) ? details : `${message}: ${details}`;
}

/** A warning stands until its node takes it back: results that are kept are not computed, nor warned of, again. */
function warn(id, text) {
  const node = find(id);
  if (!text || !node) return;
  if (text.trim()) tell(WARNING, id, text);
  else take(node, WARNING);
  setTimeout(() => hide(node, EDITORS_TEXT)); // after the editor has heard the same event
}

function tell(kind, id, text) {
  const node = find(id);
  if (!text || !node) return;
  if (kind === FAULT && app.canvas && app.canvas.graph !== node.graph) announce(id, text);
  take(node, kind);
  const style = { overflowY: "auto", whiteSpace: "pre-wrap", overflowWrap: "anywhere", fontSize: "11px", userSelect: "text" };
  const box = make("div", { ...style, lineHeight: `${LINE}px`, color: kind.color }, text);
  const columns = Math.max(20, (node.size[0] - 20) / LETTER);
  const lines = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / columns)), 0);
  const before = [...node.size];
  const widget = show(node, kind.name, box, Math.min(lines, LINES) * LINE);
  if (kind === FAULT) widget.beforeQueued = () => queueMicrotask(clear); // the editor walks through the widgets now
  const grown = marked.get(node)?.grown ?? {};
  grown[kind.name] = [node.size[0] - before[0], node.size[1] - before[1]];
  marked.set(node, { size: [...node.size], grown });
  app.canvas?.bringToFront?.(node); // it has grown over what lies below
}

/** Of a node inside a box the box alone is in view, and it turns red without a word. */
function announce(id, text) {
  const box = (app.rootGraph ?? app.graph).getNodeById?.(String(id).split(":")[0]);
  app.extensionManager?.toast?.add?.({ severity: "error", summary: box?.title, detail: text, life: SHOWN });
}

/** Our node of this id; in a subgraph the ids of its instances come first, as in "11:4". */
function find(id) {
  let graph = app.rootGraph ?? app.graph;
  let node;
  for (const part of String(id ?? "").split(":")) {
    node = graph?.getNodeById?.(part);
    graph = node?.subgraph;
  }
  return String(node?.comfyClass ?? node?.type).startsWith("UnCLIP") ? node : undefined;
}

function clear() {
  for (const node of [...marked.keys()]) {
    if (node.graph) take(node, FAULT);
    else marked.delete(node); // it has left the canvas
  }
}

/** Take a text away, and what the node has grown for it where the user has not chosen another size since. */
function take(node, { name }) {
  hide(node, name);
  const mark = marked.get(node);
  if (!mark?.grown[name]) return;
  const back = [0, 1].map((side) => (node.size[side] === mark.size[side] ? mark.grown[name][side] : 0));
  delete mark.grown[name];
  node.setSize([node.size[0] - back[0], node.size[1] - back[1]]);
  mark.size = [...node.size];
  if (!Object.keys(mark.grown).length) marked.delete(node);
}
