// Templates: the pack's graphs from the first to try to the last, as web/graphs.json says. The server lists them as they
// happen to lie on its disk, and a name with a number in it would have to be typed in every command.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const FOLDER = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-3)); // the pack's, as the user named it

app.registerExtension({
  name: "unclip.template_order",
  async init() {
    const ask = api.getWorkflowTemplates;
    const answer = await fetch(new URL("../graphs.json", import.meta.url));
    if (typeof ask !== "function" || !answer.ok) return;
    const order = await answer.json();
    const place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
    api.getWorkflowTemplates = async function () {
      const graphs = await ask.apply(this, arguments);
      graphs?.[FOLDER]?.sort((a, b) => place(a) - place(b) || a.localeCompare(b));
      return graphs;
    };
  },
});
