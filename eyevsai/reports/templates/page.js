// Sorts tables by a click or the Enter key on the head of a column. Without scripts, tables stay in the order they were written in.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const collator = new Intl.Collator(undefined, {numeric: true});
  heads.forEach((head, column) => {
    if ("unsorted" in head.dataset) return;
    const isNumber = head.classList.contains("n");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    button.addEventListener("click", () => {
      const orders = isNumber ? ["descending", "ascending"] : ["ascending", "descending"];
      const order = head.getAttribute("aria-sort") === orders[0] ? orders[1] : orders[0];
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      body.append(...[...body.rows].sort((one, other) => {
        const a = value(one), b = value(other);
        if (!a || !b) return !a - !b;  // empty cells are last in both orders
        return sign * (isNumber ? Number(a) - Number(b) : collator.compare(a, b));
      }));
    });
  });
}
// Adds a button to a picture that is drawn smaller than it is.
for (const picture of document.querySelectorAll(".picture")) {
  const image = picture.querySelector("img"), button = document.createElement("button");
  button.type = "button";
  button.className = "size";
  button.textContent = "Full size";
  button.setAttribute("aria-pressed", "false");
  button.hidden = true;
  picture.parentElement.querySelector("figcaption").append(button);
  button.addEventListener("click", () => {
    const isFull = picture.classList.toggle("full");
    button.setAttribute("aria-pressed", String(isFull));
  });
  new ResizeObserver(() => {
    if (!picture.classList.contains("full")) button.hidden = image.naturalWidth <= 1.1 * image.width;
  }).observe(image);
}
