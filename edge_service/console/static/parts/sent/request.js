// A recorded request as text, with the parts that are explained beside it marked in it.

/** The first lines of a request, as HTTP/1.1 writes them. */
export function headOf(request) {
  const lines = [`${request.method} ${request.target} HTTP/1.1`, ...request.headers.map(([name, value]) => `${name}: ${value}`)];
  return `${lines.join("\r\n")}\r\n\r\n`;
}

/** Bytes of a whole request: its head and its body. */
export function bytesOf(request) {
  return new TextEncoder().encode(headOf(request)).length + request.body_bytes;
}

/** What of a request is explained: [{kind: "numbers" | "name" | "contract" | "gallery" | "id", finds: [text]}]. */
export function partsOf(request) {
  const { decoded } = request;
  const found = { numbers: [], contract: [], id: [] };
  let body = null;
  try {
    body = JSON.parse(request.body);
  } catch {
    // no body, or one that is not JSON: its parts are those of the address
  }
  collect(body, found);
  if (decoded.contract) found.contract.push(decoded.contract);
  const name = decoded.sealed_subject;
  return [
    { kind: "numbers", finds: found.numbers },
    { kind: "name", finds: name ? [name, encodeURIComponent(name)] : [] },
    { kind: "contract", finds: found.contract },
    { kind: "gallery", finds: [`/galleries/${decoded.gallery}`] },
    { kind: "id", finds: found.id },
  ].map((part) => ({ ...part, finds: [...new Set(part.finds.filter((text) => typeof text === "string" && text.length > 5))] }))
    .filter((part) => part.finds.length || (part.kind === "numbers" && decoded.templates.length));
}

function collect(value, found) {
  if (Array.isArray(value)) {
    for (const each of value) collect(each, found);
  } else if (value && typeof value === "object") {
    for (const [name, each] of Object.entries(value)) {
      if (name === "data" && typeof each === "string") found.numbers.push(each);
      else if (name === "contract" && typeof each === "string") found.contract.push(each);
      else if (name === "id" && typeof each === "string") found.id.push(each);
      else collect(each, found);
    }
  }
}

/** Cuts a text where the explained parts lie: [{text, part: index into parts or null}]. */
export function segments(text, parts) {
  const places = [];
  parts.forEach((part, index) => {
    for (const find of part.finds) {
      // Of `/galleries/NAME` the name alone is marked.
      const skip = part.kind === "gallery" ? "/galleries/".length : 0;
      for (let at = text.indexOf(find); at >= 0; at = text.indexOf(find, at + find.length)) {
        places.push({ from: at + skip, to: at + find.length, index });
      }
    }
  });
  places.sort((one, other) => one.from - other.from || other.to - one.to);
  const cut = [];
  let done = 0;
  for (const { from, to, index } of places) {
    if (from < done) continue;
    if (from > done) cut.push({ text: text.slice(done, from), part: null });
    cut.push({ text: text.slice(from, to), part: index });
    done = to;
  }
  if (done < text.length) cut.push({ text: text.slice(done), part: null });
  return cut;
}
