"use strict";
// Lets a table be sorted by its columns. Without this script it stands in its best order, and nothing is missing.
(() => {
  const words = new Intl.Collator("en", { numeric: true });
  const text = (cell) => (cell ? (cell.dataset.value ?? cell.textContent).trim() : "");
  const unknown = (value) => value === "" || value.toLowerCase() === "nan";

  // Keys of one column: numbers if everything known in it is one; null is unknown.
  const keys = (rows, column) => {
    const values = rows.map((row) => text(row.cells[column]));
    const known = values.filter((value) => !unknown(value));
    const numeric = known.length > 0 && known.every((value) => !Number.isNaN(Number(value)));
    return { numeric, of: values.map((value) => (unknown(value) ? null : numeric ? Number(value) : value)) };
  };

  // Sorting is stable, so a second column keeps the order of the first among its equals; unknown is always last.
  const sorted = (rows, { numeric, of }, sign) => {
    const compare = (a, b) => {
      if (of[a] === null || of[b] === null) return (of[a] === null) - (of[b] === null);
      const order = numeric ? (of[a] > of[b]) - (of[a] < of[b]) : words.compare(of[a], of[b]);
      return sign * order;
    };
    return rows.map((_, place) => place).sort(compare).map((place) => rows[place]);
  };

  const place = (body, rows) => {
    const all = document.createDocumentFragment();
    for (const row of rows) all.append(row);
    body.append(all);
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const best = [...body.rows];
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    const press = (head, column) => {
      const rows = [...body.rows];
      const found = keys(rows, column);
      // Numbers are wanted from the top, words from the start; the third press gives back the best order.
      const turns = found.numeric ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
      const turn = turns[(turns.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", turn);
      place(body, turn === "none" ? best : sorted(rows, found, turn === "ascending" ? 1 : -1));
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sorter";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => press(head, column));
    });
  }
})();
