// What the pack's extensions need: an element on a node that is no part of the saved graph.

const MARGIN = 10; // what the editor keeps free above and below an element

/** Put `element`, `inside` high, under a node's widgets, in the place of one put there before under this name. Returns
 * its widget. */
export function show(node, name, element, inside) {
  const height = inside + 2 * MARGIN;
  hide(node, name);
  const options = { serialize: false, hideOnZoom: false, margin: MARGIN, getMinHeight: () => height, getMaxHeight: () => height };
  const widget = node.addDOMWidget(name, "unclip", element, options);
  widget.serialize = false; // saved graphs keep their widgets' values by place
  widget.computeSize = (width) => [width ?? node.size[0], height];
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

/** Call `then(node, output)` whenever a node of this class has run; a failure leaves the node as the editor made it. */
export function afterRun(nodeType, then) {
  const before = nodeType.prototype.onExecuted;
  nodeType.prototype.onExecuted = function (output) {
    const result = before?.apply(this, arguments);
    Promise.resolve()
      .then(() => then(this, output))
      .catch((error) => console.warn("unclip:", error));
    return result;
  };
}

/** An element with styles and children. */
export function make(tag, style, ...children) {
  const element = document.createElement(tag);
  Object.assign(element.style, style);
  element.append(...children);
  return element;
}
