// What both of the pack's extensions need: an element on a node that is no part of the saved graph.

/** Put `element` under a node's widgets, in the place of one put there before under this name. */
export function show(node, name, element, height) {
  const old = node.widgets?.findIndex((widget) => widget.name === name) ?? -1;
  if (old >= 0) {
    node.widgets[old].onRemove?.();
    node.widgets.splice(old, 1);
  }
  const options = { serialize: false, hideOnZoom: false, getMinHeight: () => height, getMaxHeight: () => height };
  const widget = node.addDOMWidget(name, "unclip", element, options);
  widget.serialize = false; // saved graphs keep their widgets' values by place
  widget.computeSize = (width) => [width ?? node.size[0], height];
  const wanted = node.computeSize();
  node.setSize([Math.max(node.size[0], wanted[0]), Math.max(node.size[1], wanted[1])]);
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
