/** Asks before something that cannot be undone. */
import { el } from "./dom.js";

const question = el("h2", { id: "confirm-question" });
const explanation = el("p", { id: "confirm-explanation" });
const cancel = el("button", { type: "button", autofocus: true, click: () => dialog.close("no") }, "Cancel");
const yes = el("button", { type: "button", class: "danger", click: (event) => { if (!secondPress(event as MouseEvent)) dialog.close("yes"); } });
const dialog = el("dialog", { id: "confirm", "aria-labelledby": question.id, "aria-describedby": explanation.id },
  question, explanation, el("div", { class: "row" }, cancel, yes));
document.body.append(dialog);

/** Within this time and distance of the press that asked, a press is its double-click. */
const DOUBLE_CLICK = { ms: 500, px: 10 };
let asked: MouseEvent | null = null;

/** Of a double-click or double-tap, which lands here when the dialog opens under the pointer. */
function secondPress(event: MouseEvent): boolean {
  // The keyboard's clicks have no count and no place; the focus begins at Cancel.
  if (event.detail === 0 || asked === null) return false;
  const near = Math.hypot(event.clientX - asked.clientX, event.clientY - asked.clientY) < DOUBLE_CLICK.px;
  return event.detail > 1 || (near && event.timeStamp - asked.timeStamp < DOUBLE_CLICK.ms);
}

/** Whether the user says `verb`. Escape and Enter do not; the focus returns to where it was. */
export function confirmed(by: Event, what: string, why: string, verb: string): Promise<boolean> {
  asked = by as MouseEvent;
  question.textContent = what;
  explanation.textContent = why;
  yes.textContent = verb;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
