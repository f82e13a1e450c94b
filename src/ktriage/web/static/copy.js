// SPDX-License-Identifier: GPL-2.0-only
// Copies a text that the page shows. Without JavaScript the text is selected and copied by hand.
"use strict";
for (const button of document.querySelectorAll("button.copy")) {
  const text = document.getElementById(button.dataset.copy);
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    let copied = false;
    try {
      await navigator.clipboard.writeText(text.textContent);
      copied = true;
    } catch {
      // The clipboard is for secure contexts only: select it, the keyboard does the rest.
      const selection = getSelection();
      selection.removeAllRanges();
      selection.selectAllChildren(text);
    }
    button.textContent = copied ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => { button.textContent = label; }, 2500);
  });
}
