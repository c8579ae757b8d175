// Pictures that a person chose: from a drop, a folder, the clipboard or a camera.

const KINDS = /\.(jpe?g|jfif|png|webp|avif|heic|heif)$/i;

export function isPicture(file) {
  return file.type.startsWith("image/") || KINDS.test(file.name);
}

/** {file, url, name, folder, root, bytes, key}: `folder` is the sub-folder that the file lay in, `root` the chosen one, or null. */
export function asPicture(file, path = "") {
  const parts = (path || file.webkitRelativePath || file.name).split("/").filter(Boolean);
  return {
    file,
    url: URL.createObjectURL(file),
    name: file.name,
    folder: parts.length > 2 ? parts.at(-2) : null,
    root: parts.length > 1 ? parts[0] : null,
    bytes: file.size,
    key: `${parts.join("/")}:${file.size}:${file.lastModified}`,
  };
}

/** All pictures of a drop, with those of dropped folders. */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files].map((file) => asPicture(file));
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((done, fail) => entry.file(done, fail));
    if (isPicture(file)) found.push(asPicture(file, entry.fullPath));
    return;
  }
  const reader = entry.createReader();
  // A reader gives at most 100 entries at once, and none when all were given.
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) return;
    for (const each of some) await walk(each, found);
  }
}

/** A frame of a video as a JPEG of at most `side` pixels; null while the video has none. */
export function grab(video, side = 1280, quality = 0.88) {
  const [width, height] = [video.videoWidth, video.videoHeight];
  if (!width || !height) return Promise.resolve(null);
  const scale = Math.min(1, side / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob((blob) => done(blob && { blob, width: canvas.width, height: canvas.height }), "image/jpeg", quality));
}

// A picture that one view hands to the next, such as from "stored" to "recognize".
let handed = null;

export function handOver(picture) {
  handed = picture;
}

export function takeOver() {
  const picture = handed;
  handed = null;
  return picture;
}
