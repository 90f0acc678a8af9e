// What the pack's extensions need: an element on a node that is no part of the saved graph.
import { app } from "../../../scripts/app.js";

const MARGIN = 10; // what the editor keeps free above and below an element
const LATER = 500; // milliseconds: the editor brings results back after the graph
const makers = new Map(); // node class -> what shows its result

/** Put `element`, `inside` high, under a node's widgets, in the place of one put there before under this name; with
 * `grows` it takes what room the node has below, too. Returns its widget. */
export function show(node, name, element, inside, grows = false) {
  const height = inside + 2 * MARGIN;
  hide(node, name);
  const options = { serialize: false, hideOnZoom: false, margin: MARGIN, getMinHeight: () => height };
  if (!grows) options.getMaxHeight = () => height;
  const widget = node.addDOMWidget(name, "unclip", element, options);
  widget.serialize = false; // saved graphs keep their widgets' values by place
  if (!grows) widget.computeSize = (width) => [width ?? node.size[0], height];
  const wanted = node.computeSize();
  node.setSize([Math.max(node.size[0], wanted[0]), Math.max(node.size[1], wanted[1])]);
  node.setDirtyCanvas?.(true, true);
  return widget;
}

/** Take an element away that was put on a node under this name. */
export function hide(node, name) {
  const old = node.widgets?.findIndex((widget) => widget.name === name) ?? -1;
  if (old < 0) return;
  node.widgets[old].onRemove?.();
  node.widgets.splice(old, 1);
  node.setDirtyCanvas?.(true, true);
}

/** Call `then(node, output)` whenever a node of this class has run, and when the editor comes back to a graph that it
 * keeps results of; a failure leaves the node as the editor made it. */
export function afterRun(nodeType, then) {
  const before = nodeType.prototype.onExecuted;
  makers.set(nodeType.comfyClass, then);
  nodeType.prototype.onExecuted = function (output) {
    const result = before?.apply(this, arguments);
    call(then, this, output);
    return result;
  };
}

function call(then, node, output) {
  Promise.resolve()
    .then(() => then(node, output))
    .catch((error) => console.warn("unclip:", error));
}

app.registerExtension({
  name: "unclip.results",
  afterConfigureGraph() {
    setTimeout(() => bringBack(app.rootGraph ?? app.graph), LATER);
  },
});

function bringBack(graph, place = "") {
  for (const node of graph._nodes) {
    const then = makers.get(node.comfyClass);
    const output = app.nodeOutputs?.[`${place}${node.id}`];
    if (then && output && !node.widgets?.some((widget) => widget.name.startsWith("unclip_"))) call(then, node, output);
    if (node.subgraph) bringBack(node.subgraph, `${node.subgraph.id}:`);
  }
}

/** An element with styles and children. */
export function make(tag, style, ...children) {
  const element = document.createElement(tag);
  Object.assign(element.style, style);
  element.append(...children);
  return element;
}
